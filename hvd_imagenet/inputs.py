"""The data of a run: opened on all workers, held against the settings and the host, in the order that is asked for."""

from __future__ import annotations

import dataclasses
import math
import socket

import psutil

from hvd_imagenet.backend import Backend
from hvd_imagenet.config import Config
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.loader import batches_ahead, in_flight
from hvd_imagenet.data.remote.cache import require_room
from hvd_imagenet.data.remote.caching import Caching, Patience
from hvd_imagenet.data.requests import FirstRequests, Worker, evaluation_shards_at_once, shards_at_once, spread
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.faults.together import together
from hvd_imagenet.policy import LargeBatchPolicy
from hvd_imagenet.stream import BlockedOrder, GlobalOrder, SampleStream

EVALUATION_BATCH = 128


def require_data(config: Config) -> None:
    """Raise SettingsError unless the settings say where the data is."""
    if config.data.path is None:
        raise SettingsError("data.path: null; give the folder or URL of the data set: --data.path FOLDER")


def open_everywhere(config: Config, split: str, backend: Backend) -> Store:
    """Open a split on all workers; on each host one goes first, so that a plain folder is indexed once.

    Raises:
        RunError: it cannot be opened on one of them, or is not the same on all.
    """
    store = None
    for turn in (backend.local_rank == 0, backend.local_rank != 0):
        with together(backend):
            if turn:
                store = open_store(config.data.path, split, caching(config))
    require_same_data(store, split, backend)
    return store


def require_same_data(store: Store, split: str, backend: Backend) -> None:
    """Raise DataError unless all workers have opened a split with the same contents."""
    with together(backend):
        given = backend.gather((socket.gethostname(), str(store.path), store.contents()))
        first_host, first_path, expected = given[0]
        for rank, (host, path, contents) in enumerate(given):
            if contents != expected:
                raise DataError(
                    f"{path}: the {split} images of worker {rank} on {host} (checksum {contents}) are not those of "
                    f"worker 0 on {first_host} in {first_path} ({expected}); copy one set to all hosts"
                )


def sample_stream(config: Config, train_set: Store) -> SampleStream:
    """The training set in the order that the settings ask for."""
    if config.stream.shuffle == "blocked":
        return SampleStream(config.seed, BlockedOrder(train_set.shard_samples, config.stream.window))
    return SampleStream(config.seed, GlobalOrder(len(train_set)))


def decoding(config: Config, backend: Backend) -> Decoding:
    """What becomes of an image on this worker."""
    data = config.data
    return Decoding(
        image_size=data.image_size,
        mean=tuple(data.mean),
        std=tuple(data.std),
        resize_shorter=data.resize_shorter(),
        padded=data.augment == "shift_crop",
        threads=data.threads or backend.cores,
        device_id=backend.device_id,
        decoder=dataclasses.asdict(data.decoder),
    )


def norm_images(config: Config, train_set: Store, stream: SampleStream, backend: Backend) -> FirstRequests | None:
    """This worker's share of what batch normalisation's statistics are recomputed from for evaluations: the first
    samples of the stream, as training takes them; None: the running statistics are used.

    Raises:
        SettingsError: there are not so many.
    """
    samples = config.evaluate.precise_bn
    if samples is None:
        return None
    if samples > len(train_set):
        raise SettingsError(
            f"evaluate.precise_bn: {samples}; {train_set.path} has {len(train_set)} training images: give at most as "
            "many, or null"
        )
    return FirstRequests(
        train_set.for_another_reader(),  # training goes on to expect what it reads
        stream,
        config.data.augment,
        Worker(backend.rank, backend.size),
        decoding(config, backend),
        config.batch.micro_size,
        math.ceil(samples / config.batch.micro_size),
    )


def caching(config: Config) -> Caching:
    """How a data set at a URL is kept on this host."""
    data = config.data
    return Caching.of(data.cache_dir, data.cache_gib, Patience.within(config.faults.stall_seconds))


def check_classes(config: Config, store: Store) -> None:
    """Raise DataError unless the network has as many classes as the data set."""
    if config.model.classes != len(store.classes):
        raise DataError(
            f"{store.path}: has {len(store.classes)} classes, but model.classes is {config.model.classes}; "
            f"set model.classes to {len(store.classes)}, or is it another data set?"
        )


def check_memory(config: Config, stream: SampleStream, workers: int) -> None:
    """Raise SettingsError if this host has too little memory for the order of the samples.

    Args:
        workers: on this host; each works out the order for itself.
    """
    setting, remedy = "stream.shuffle: global", "set stream.shuffle to blocked"
    if config.stream.shuffle == "blocked":
        setting, remedy = f"stream.window: {config.stream.window}", "lower it"
    needed, has = stream.order.peak_bytes, psutil.virtual_memory().total
    if needed * workers > has:
        raise SettingsError(
            f"{setting}; shuffling {stream.order.dataset_size:,} images takes {needed / 2**30:.1f} GiB in each worker, "
            f"and {socket.gethostname()} has {has / 2**30:.1f} GiB for {workers}; {remedy}"
        )


def check_cache(
    config: Config,
    policy: LargeBatchPolicy,
    train_set: Store,
    val_set: Store,
    first: FirstRequests | None,
    workers: int,
    on_host: int,
) -> None:
    """Raise SettingsError unless this host has room for all that is read of a remote set at a time.

    That is all training shards in a global shuffle, in a blocked one as many as the workers with what they read ahead
    are spread over, and those of the images that evaluations begin with; and of an evaluation, see `evaluation_room`.

    Args:
        first: what evaluations begin with, see `norm_images`.
        workers: in all; on_host: of them.
    """
    shards, what, remedy = len(train_set.shard_samples), "a global shuffle", "set stream.shuffle to blocked"
    if config.stream.shuffle == "blocked":
        apart = spread(policy, workers, batches_ahead(policy.micro_batch))
        shards = shards_at_once(train_set.shard_samples, config.stream.window, apart)
        what, remedy = f"stream.window {config.stream.window}", "lower stream.window"
        if first:
            shards = min(len(train_set.shard_samples), shards + len(first.shards))
            what, remedy = f"{what} with evaluate.precise_bn", f"{remedy} or evaluate.precise_bn"
    needed = train_set.room(shards) + evaluation_room(val_set, on_host)
    require_room(caching(config), needed, f"{what} of {train_set.path}", remedy)


def evaluation_room(val_set: Store, on_host: int) -> int:
    """Bytes of the cache that an evaluation by so many workers of a host takes: the shards at hand, and the next."""
    return val_set.room(on_host * evaluation_shards_at_once(val_set.shard_samples, in_flight(EVALUATION_BATCH)))
