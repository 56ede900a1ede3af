"""Feeds this worker's micro-batches, decoded ahead, in the order of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hvd_imagenet.backend import Batch
from hvd_imagenet.data import dali
from hvd_imagenet.data.shard_order import in_order, in_shuffled_order
from hvd_imagenet.data.store import Store
from hvd_imagenet.errors import DataError
from hvd_imagenet.policy import LargeBatchPolicy, StepPlan
from hvd_imagenet.stream import CentreCrops, SampleStream, Windows, augmenter, centre_crops, share


class Request(NamedTuple):
    """One batch as DALI is asked for it: sample numbers, shape (n,), and the part of each image that is taken."""

    numbers: np.ndarray
    crops: Windows | CentreCrops


@dataclass(frozen=True)
class Worker:
    """Which part of the work is this worker's."""

    rank: int
    size: int


class TrainLoader:
    """The micro-batches of one worker along the sample stream.

    Args:
        store: the training set.
        policy: the plan of the run; its steps are read ahead.
        seed: of the sample stream.
        augment: random_resized_crop, shift_crop or none.
        worker: whose micro-batches these are.
        decoding: what becomes of an image.
        from_: samples seen when the first step starts.
    """

    def __init__(
        self,
        store: Store,
        policy: LargeBatchPolicy,
        seed: int,
        augment: str,
        worker: Worker,
        decoding: dali.Decoding,
        from_: int = 0,
    ):
        self._store = store
        self._policy = policy
        self._stream = SampleStream(seed, len(store))
        self._augment = augmenter(augment)
        self._worker = worker
        self._decoding = decoding
        store.expect(in_shuffled_order(store, SampleStream(seed, len(store)), from_))
        graph = dali.windowed if self._augment else dali.centred
        self._batches = _decoded(store, self.requests(from_), graph, policy.micro_batch, decoding)

    def micro_batches(self, plan: StepPlan) -> Iterator[Batch]:
        """This worker's micro-batches of a step. Steps must be asked for in the order of the plan."""
        first, stop = share(plan.micro_batches, self._worker.rank, self._worker.size)
        for _ in range(first, stop):
            yield next(self._batches)

    def requests(self, from_: int) -> Iterator[Request]:
        """What DALI is asked for, micro-batch by micro-batch, to the end of the run."""
        micro_batch = self._policy.micro_batch
        for plan in self._policy.steps(from_):
            for number in range(*share(plan.micro_batches, self._worker.rank, self._worker.size)):
                yield self._request(plan.samples_seen + number * micro_batch, micro_batch)

    def _request(self, start: int, count: int) -> Request:
        parts = list(self._stream.stretches(start, count))  # two where the micro-batch spans two epochs
        numbers = np.concatenate([part.numbers for part in parts])
        if not self._augment:
            return _centre_request(self._store, numbers, self._decoding)
        windows = [
            self._augment(self._stream.seed, part.epoch, part.position, self._store.sizes(part.numbers))
            for part in parts
        ]
        return Request(numbers, Windows(*map(np.concatenate, zip(*windows, strict=True))))


def evaluation_batches(store: Store, batch_size: int, worker: Worker, decoding: dali.Decoding) -> Iterator[Batch]:
    """This worker's part of a split, every sample of it once; the last batch may be short."""
    start, stop = share(len(store), worker.rank, worker.size)
    store.expect(in_order(store, start, stop))
    batches = (np.arange(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size))
    requests = (_centre_request(store, numbers, decoding) for numbers in batches)
    return _decoded(store, requests, dali.centred, batch_size, decoding)


def _centre_request(store: Store, numbers: np.ndarray, decoding: dali.Decoding) -> Request:
    return Request(numbers, centre_crops(store.sizes(numbers), decoding.resize_shorter, decoding.image_size))


def _decoded(
    store: Store, requests: Iterator[Request], graph: Callable, batch_size: int, decoding: dali.Decoding
) -> Iterator[Batch]:
    """Run requests through a graph of ``dali``, which reads ahead of what has been asked for."""
    in_flight: deque[Request] = deque()

    def feed():
        for request in requests:
            in_flight.append(request)
            crops = (array.astype(np.int32) for array in request.crops)
            yield store.read(request.numbers), *crops, store.labels[request.numbers].astype(np.int64)

    pipeline = graph(feed(), batch_size, decoding)
    while True:
        try:
            images, labels = pipeline.run()
        except StopIteration:
            return
        except RuntimeError as error:
            raise _undecodable(store, in_flight[0], graph, decoding, error) from None
        in_flight.popleft()
        yield Batch(images.as_tensor(), labels.as_tensor())


def _undecodable(
    store: Store, request: Request, graph: Callable, decoding: dali.Decoding, error: RuntimeError
) -> DataError:
    """The error that names the sample which DALI failed on; found by decoding each of the batch alone."""
    reason = str(error).partition("encountered:")[2].strip().partition("\n")[0] or str(error).partition("\n")[0]
    if len(request.numbers) == 1:
        return DataError(f"{store.name(request.numbers[0])}: cannot be decoded ({reason}); repair or remove it")
    for i in range(len(request.numbers)):
        alone = Request(request.numbers[i : i + 1], type(request.crops)(*(array[i : i + 1] for array in request.crops)))
        try:
            list(_decoded(store, iter([alone]), graph, 1, decoding))
        except DataError as found:
            return found
    return DataError(f"{store.path}: decoding samples {request.numbers.tolist()} failed ({reason})")
