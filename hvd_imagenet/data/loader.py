"""Feeds this worker's micro-batches, read and decoded ahead, in the order of the plan.

Three things go on beside the training, each ahead of the next: threads that read, one that decides what is read, and
one that hands it to DALI, which decodes on threads of its own. The training thread only takes what is there.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from hvd_imagenet.backend import Batch
from hvd_imagenet.data import dali
from hvd_imagenet.data.ahead import Ahead
from hvd_imagenet.data.decoders import OnDevice, OnHost
from hvd_imagenet.data.remote import address
from hvd_imagenet.data.requests import (
    FirstRequests,
    Request,
    TrainRequests,
    Worker,
    evaluation_requests,
    evaluation_shards,
)
from hvd_imagenet.data.store import Store
from hvd_imagenet.errors import DataError
from hvd_imagenet.policy import StepPlan

READERS = 8  # reads that wait for the disk at the same time
READ_AT_ONCE = 32  # images that one of them reads in a row
READ_AHEAD = 256  # images that are read, or being read, before the decoder asks for them; at least two batches
DECODED_AHEAD = 2  # batches that wait for the training, beside those in DALI


class TrainLoader:
    """The micro-batches of one worker along the sample stream; also a context manager, which ends its threads.

    Args:
        wanted: what they consist of.
        from_: samples seen when the first step starts.
    """

    def __init__(self, wanted: TrainRequests, from_: int = 0):
        self._wanted = wanted
        micro_batch = wanted.policy.micro_batch
        shards = wanted.shards_from(from_, batches_ahead(micro_batch))
        self._batches = _ahead(wanted.store, shards, wanted.from_(from_), micro_batch, wanted.decoding)

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self._batches.close()

    def micro_batches(self, plan: StepPlan) -> Iterator[Batch]:
        """This worker's micro-batches of a step. Steps must be asked for in the order of the plan."""
        for _ in self._wanted.share(plan):
            yield next(self._batches)


def first_batches(wanted: FirstRequests) -> Ahead[Batch]:
    """One worker's share of the first micro-batches of the sample stream. To be closed."""
    return _ahead(wanted.store, wanted.own_shards(), iter(wanted), wanted.micro_batch, wanted.decoding)


def evaluation_batches(store: Store, batch_size: int, worker: Worker, decoding: dali.Decoding) -> Ahead[Batch]:
    """This worker's part of a split, every sample of it once; the last batch may be short. To be closed."""
    shards = evaluation_shards(store, worker, in_flight(batch_size))
    requests = evaluation_requests(store, batch_size, worker, decoding)
    return _ahead(store, shards, requests, batch_size, replace(decoding, padded=False))


def batches_ahead(batch_size: int) -> int:
    """How many batches are begun at most before the training has taken one: read, in DALI, decoded, and between."""
    return _read_ahead(batch_size) + dali.PREFETCH + DECODED_AHEAD + 2


def in_flight(batch_size: int) -> int:
    """How many images are being read at most: those ahead, and the batch that the decoder waits for."""
    return (_read_ahead(batch_size) + 1) * batch_size


def _read_ahead(batch_size: int) -> int:
    return max(2, READ_AHEAD // batch_size)


def _ahead(
    store: Store,
    shards: Iterator[np.ndarray],
    requests: Iterator[Request],
    batch_size: int,
    decoding: dali.Decoding,
) -> Ahead[Batch]:
    """Requests, read and decoded ahead, from shards that are fetched ahead."""
    stop_waiting = store.expect(shards, in_flight(batch_size))

    def batches():
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(READERS, "read")
            stack.callback(pool.shutdown, cancel_futures=True)
            stack.callback(stop_waiting)  # or an error would wait until the other reads are done
            wanted = Ahead(_begun(store, requests, pool), _read_ahead(batch_size), "request")
            encoded = ((request, _finished(reads)) for request, reads in stack.enter_context(wanted))
            yield from _decoded(store, encoded, batch_size, decoding)

    return Ahead(batches(), DECODED_AHEAD, "decode", stop_waiting)


def _begun(
    store: Store, requests: Iterator[Request], pool: ThreadPoolExecutor
) -> Iterator[tuple[Request, list[Future]]]:
    """Each request, with the reads that it takes, begun."""
    for request in requests:
        parts = np.split(request.numbers, range(READ_AT_ONCE, len(request.numbers), READ_AT_ONCE))
        yield request, [pool.submit(store.read, part) for part in parts]


def _finished(reads: list[Future]) -> list[np.ndarray]:
    return [encoded for read in reads for encoded in read.result()]


def _decoded(
    store: Store, encoded: Iterable[tuple[Request, list[np.ndarray]]], batch_size: int, decoding: dali.Decoding
) -> Iterator[Batch]:
    """Batches of what was read; an error in reading comes after the batches before it."""
    kind = OnHost if decoding.device_id is None else OnDevice
    in_flight: deque[tuple[Request, np.ndarray, tuple]] = deque()  # with the arrays, which DALI reads without a copy
    failed: list[Exception] = []

    def feed():
        try:
            for request, images in encoded:
                labels = store.labels[request.numbers].astype(np.int64)
                inputs = kind.inputs(request, images, labels)
                in_flight.append((request, labels, inputs))
                yield inputs
        except Exception as error:  # DALI would forget the batches that it is at work on
            failed.append(error)

    with kind(feed(), batch_size, decoding) as decoder:
        while True:
            try:
                outputs = decoder.run()
            except StopIteration:
                if failed:
                    raise failed[0] from None
                return
            except RuntimeError as error:
                raise _undecodable(store, in_flight[0][0], decoding, error) from None
            request, labels, _ = in_flight.popleft()
            yield decoder.batch(outputs, request, labels)


def _verify(path: Path | str) -> str:
    """The command that finds what cannot be decoded, which takes no URL."""
    if address.is_url(str(path)):
        return f"hvd-imagenet data verify FOLDER, with the folder that {path} was copied from"
    return f"hvd-imagenet data verify {shlex.quote(str(path))}"


def _undecodable(store: Store, request: Request, decoding: dali.Decoding, error: RuntimeError) -> DataError:
    """The error that names the sample which DALI failed on; found by decoding each of the batch alone."""
    reason = str(error).partition("encountered:")[2].strip().partition("\n")[0] or str(error).partition("\n")[0]
    remedy = f"repair or remove it; to find all such files: {_verify(store.path)}"
    if len(request.numbers) == 1:
        return DataError(f"{store.name(request.numbers[0])}: cannot be decoded ({reason}); {remedy}")
    for i in range(len(request.numbers)):
        alone = request.alone(i)
        try:
            list(_decoded(store, [(alone, store.read(alone.numbers))], 1, decoding))
        except DataError as found:
            return found
    return DataError(f"{store.path}: decoding samples {request.numbers.tolist()} failed ({reason})")
