"""The first micro-batches of the sample stream, which evaluations may recompute statistics from: always the same."""

import dataclasses
import math
import threading

import numpy as np
import pytest
from remote_sets import GREY, describe, files_in

from hvd_imagenet import inputs, settings
from hvd_imagenet.data import loader as loading
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.loader import TrainLoader, first_batches
from hvd_imagenet.data.requests import FirstRequests, TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.stream import BlockedOrder, GlobalOrder, SampleStream, order

SMALL = Decoding(16, (0, 0, 0), (1, 1, 1), 16, True, 1, None)
MICRO = 8


def stream_of(store, kind="global"):
    return SampleStream(3, GlobalOrder(len(store)) if kind == "global" else BlockedOrder(store.shard_samples, 3))


def first(store, count, rank=0, size=1, augment="shift_crop", kind="global"):
    return FirstRequests(store, stream_of(store, kind), augment, Worker(rank, size), SMALL, MICRO, count)


def trained_on(store, augment, kind):
    """What an epoch of training on one worker asks for, micro-batch by micro-batch; the last one spans two epochs."""
    policy = LargeBatchPolicy(len(store), 1, BatchSettings(MICRO, MICRO), LearningRateSettings())
    return list(TrainRequests(store, policy, stream_of(store, kind), augment, Worker(0, 1), SMALL).from_(0))


@pytest.mark.parametrize("augment", ["shift_crop", "random_resized_crop", "none"])
@pytest.mark.parametrize("kind", ["global", "blocked"])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_they_are_those_of_training_shared_out_among_the_workers(image_shards, augment, kind, size):
    store = open_store(image_shards, "train")
    expected = trained_on(store, augment, kind)
    assert len(expected) == 7  # of 50 images in eights
    for count in (1, 7):
        parts = [first(store, count, rank, size, augment, kind) for rank in range(size)]
        assert max(len(list(part)) for part in parts) == math.ceil(count / size)
        for _ in range(2):
            found = [request for part in parts for request in part]
            for one, other in zip(found, expected[:count], strict=True):
                assert np.array_equal(one.numbers, other.numbers) and np.array_equal(one.regions, other.regions)
                assert all(map(np.array_equal, one.windows, other.windows))
        shards = [set(store.shards(request.numbers).tolist()) for request in expected[:count]]
        for part in parts:
            assert sorted(part.shards) == sorted(set().union(*shards))
            read = [shard for window in part.own_shards() for shard in window.tolist()]
            assert sorted(read) == sorted({n for request in part for n in store.shards(request.numbers).tolist()})


def test_the_order_of_the_first_epoch_is_worked_out_once(image_shards, monkeypatch):
    store, made = open_store(image_shards, "train"), []
    monkeypatch.setattr(order, "permutation", lambda *of: made.append(of) or np.arange(50))
    wanted = first(store, 5)
    assert [len(list(wanted)) for _ in range(3)] == [5, 5, 5] and made == [(3, 0, 50)]


def test_a_worker_without_a_share_gets_nothing_and_all_threads_end(image_shards):
    store, before = open_store(image_shards, "train"), threading.active_count()
    for rank, expected in enumerate([1, 1, 1, 0]):
        with first_batches(first(store, 3, rank, 4)) as batches:
            assert len(list(batches)) == expected
    assert threading.active_count() == before


class One:
    """All that the data of a run asks of a worker that is alone."""

    rank, size, local_size, device_id, cores = 0, 1, 1, None, 1


def config_of(**options):
    given = [f"--{key.replace('__', '.')}={value}" for key, value in options.items()]
    return settings.parse(settings.parser("", ""), given)[0]


@pytest.mark.parametrize(("samples", "micro_batches"), [(1, 1), (8, 1), (9, 2), (49, 7), (50, 7)])
def test_samples_are_rounded_up_to_whole_micro_batches(image_shards, samples, micro_batches):
    store = open_store(image_shards, "train")
    config = config_of(evaluate__precise_bn=samples, batch__micro_size=8, data__augment="shift_crop")
    found = inputs.norm_images(config, store, stream_of(store), One)
    assert found.micro_batches == micro_batches and len(list(found)) == micro_batches
    assert all(len(request.numbers) == 8 for request in found)


def test_more_than_there_are_is_refused_and_none_is_none(image_shards):
    store = open_store(image_shards, "train")
    with pytest.raises(SettingsError, match="evaluate.precise_bn: 51; .* has 50 training images: give at most as many"):
        inputs.norm_images(config_of(evaluate__precise_bn=51), store, stream_of(store), One)
    assert inputs.norm_images(config_of(), store, stream_of(store), One) is None


# At a URL.


def everything(batches):
    return [np.from_dlpack(batch.images).tobytes() for batch in batches]


def test_training_beside_it_goes_on_to_get_its_shards(server, packed, cache, monkeypatch):
    """It reads the same set, and is done before training has come to most shards."""
    monkeypatch.setattr(loading, "READ_AHEAD", 8)
    store = open_store(server.url, "train", cache)
    policy = LargeBatchPolicy(len(store), 1, BatchSettings(4, 4), LearningRateSettings())
    stream = SampleStream(3, BlockedOrder(store.shard_samples, 1))
    wanted = FirstRequests(store.for_another_reader(), stream, "none", Worker(0, 1), GREY, 4, 3)
    with TrainLoader(TrainRequests(store, policy, stream, "none", Worker(0, 1), GREY)) as loader:
        plans = iter(policy.steps())
        got = everything(loader.micro_batches(next(plans)))
        rounds = []
        for _ in range(2):
            with first_batches(wanted) as batches:
                rounds.append(everything(batches))
        assert len(files_in(cache)) <= 14  # as far as training reads ahead; of 17 shards and the index
        for plan in plans:
            got += everything(loader.micro_batches(plan))
    assert rounds[0] == rounds[1] == got[:3] and len(got) == 30
    local = open_store(packed, "train")
    with first_batches(FirstRequests(local, stream, "none", Worker(0, 1), GREY, 4, 3)) as batches:
        assert everything(batches) == rounds[0]


def test_only_the_shards_that_hold_them_are_fetched(server, packed, cache):
    store = open_store(server.url, "train", cache)
    wanted = FirstRequests(store, stream_of(store, "blocked"), "none", Worker(0, 1), GREY, MICRO, 1)
    with first_batches(wanted) as batches:
        list(batches)
    split = describe(packed).splits["train"]
    expected = {split.shards[n].sha256 for n in wanted.shards} | {split.index_sha256}
    assert set(files_in(cache)) == expected and len(expected) <= 4  # of a window of three


def test_how_much_room_is_needed(packed, server, cache, monkeypatch):
    """In a blocked order, that of their shards beside the others'; in a global one, none beside all shards."""
    monkeypatch.setattr(inputs, "in_flight", lambda batch_size: 4)
    train_set, val_set = (open_store(server.url, split, cache) for split in ("train", "val"))
    sets = describe(packed).splits
    rooms = []
    monkeypatch.setattr(inputs, "require_room", lambda caching, room, what, remedy: rooms.append((room, what, remedy)))
    monkeypatch.setattr(inputs, "shards_at_once", lambda *_: 4)
    for shuffle, samples in (("blocked", None), ("blocked", 8), ("global", None), ("global", 8)):
        config = config_of(stream__shuffle=shuffle, evaluate__precise_bn=samples or "null", stream__window=3)
        config = dataclasses.replace(config, batch=BatchSettings(8, 8))
        wanted = inputs.norm_images(config, train_set, stream_of(train_set, shuffle), One)
        inputs.check_cache(config, config.policy(120), train_set, val_set, wanted, 1, 1)
    largest = sorted(shard.bytes for shard in sets["train"].shards)[::-1]
    assert len(largest) > 7
    assert rooms[1][0] - rooms[0][0] == sum(largest[4 : 4 + len(wanted_shards(train_set))])
    assert rooms[3] == rooms[2]
    assert "stream.window 3 with evaluate.precise_bn of" in rooms[1][1]
    assert rooms[1][2] == "lower stream.window or evaluate.precise_bn" and rooms[0][2] == "lower stream.window"


def wanted_shards(store):
    return np.unique(store.shards(next(stream_of(store, "blocked").stretches(0, 8)).numbers))
