"""What is asked for, batch by batch: which samples, and which part of each; pure window arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.store import Store
from hvd_imagenet.policy import LargeBatchPolicy, StepPlan
from hvd_imagenet.stream import Samples, SampleStream, Windows, augmenter, centre_crops, share

# The windows of samples, from seed, epoch, position in it, and the images' sizes.
Augmentation = Callable[[int, int, int, np.ndarray], Windows]


class Request(NamedTuple):
    """One batch as it is asked for.

    Attributes:
        numbers: of the samples, shape (n,).
        windows: the pixels of each image that count.
        regions: what of each window is resized: top, left, bottom and right, measured from its anchor and between its
            pixels, too; float64, shape (n, 4).
    """

    numbers: np.ndarray
    windows: Windows
    regions: np.ndarray

    def alone(self, i: int) -> Request:
        """The request for one of its samples only."""
        one = slice(i, i + 1)
        return Request(self.numbers[one], Windows(*(array[one] for array in self.windows)), self.regions[one])


@dataclass(frozen=True)
class Worker:
    """Which part of the work is this worker's."""

    rank: int
    size: int


class TrainRequests:
    """The micro-batches of one worker along the sample stream.

    Args:
        store: the training set.
        policy: the plan of the run.
        stream: the order of the samples.
        augment: random_resized_crop, shift_crop or none.
        worker: whose micro-batches these are.
        decoding: what becomes of an image.
    """

    def __init__(
        self,
        store: Store,
        policy: LargeBatchPolicy,
        stream: SampleStream,
        augment: str,
        worker: Worker,
        decoding: Decoding,
    ):
        self.store = store
        self.policy = policy
        self._stream = stream
        self._augment = augmenter(augment)
        self._worker = worker
        self.decoding = decoding

    def share(self, plan: StepPlan) -> range:
        """The numbers of this worker's micro-batches of a step."""
        return range(*share(plan.micro_batches, self._worker.rank, self._worker.size))

    def from_(self, samples_seen: int) -> Iterator[Request]:
        """What is asked for, micro-batch by micro-batch, to the end of the run."""
        micro_batch = self.policy.micro_batch
        for plan in self.policy.steps(samples_seen):
            for number in self.share(plan):
                yield self._request(plan.samples_seen + number * micro_batch, micro_batch)

    def shards_from(self, samples_seen: int, ahead: int) -> Iterator[np.ndarray]:
        """The shards that are read, from where the stream is: those of a part of it, then those of the next, and so on.

        No more than two parts that follow on each other are read at a time, by all workers. Of a global shuffle, it is
        one part with all shards, those first that are needed first.

        Args:
            ahead: micro-batches that a worker has begun at a time.
        """
        windows = self._stream.shards_from(samples_seen)
        first = next(windows, None)
        if first is None:
            yield _shards_of(self.store, self._stream.stretches(samples_seen, len(self.store)))
            return
        least = spread(self.policy, self._worker.size, ahead)
        group: list[np.ndarray] = []
        for window in chain([first], windows):
            group.append(window)
            if sum(self.store.shard_samples[shards].sum() for shards in group) >= least:
                yield np.concatenate(group)
                group = []

    def _request(self, start: int, count: int) -> Request:
        parts = list(self._stream.stretches(start, count))  # two where the micro-batch spans two epochs
        return _training_request(self.store, self._stream.seed, self._augment, parts, self.decoding)


class FirstRequests:
    """One worker's share of the first micro-batches of the sample stream, shared out as a step's are.

    To be asked for again and again: their samples are worked out once, since the stream would have to make its first
    epoch's order anew each time.

    Args:
        store: the training set; nobody else may expect samples of it.
        stream, augment, worker, decoding: as for `TrainRequests`.
        micro_batch: samples in each.
        micro_batches: how many, of all workers.

    Attributes:
        shards: which hold the samples of all workers' micro-batches, each once, int64.
    """

    def __init__(
        self,
        store: Store,
        stream: SampleStream,
        augment: str,
        worker: Worker,
        decoding: Decoding,
        micro_batch: int,
        micro_batches: int,
    ):
        self.store = store
        self.decoding = decoding
        self.micro_batch = micro_batch
        self.micro_batches = micro_batches
        self._seed = stream.seed
        self._augment = augmenter(augment)
        parts = [list(stream.stretches(number * micro_batch, micro_batch)) for number in range(micro_batches)]
        self.shards = _shards_of(store, chain(*parts))
        first, end = share(micro_batches, worker.rank, worker.size)
        self._own = parts[first:end]

    def __iter__(self) -> Iterator[Request]:
        """What is asked for, micro-batch by micro-batch."""
        for parts in self._own:
            yield _training_request(self.store, self._seed, self._augment, parts, self.decoding)

    def own_shards(self) -> Iterator[np.ndarray]:
        """The shards that are read: one part, those first that are needed first; none where nothing is read."""
        if self._own:
            yield _shards_of(self.store, chain(*self._own))


def _training_request(
    store: Store, seed: int, augment: Augmentation | None, parts: list[Samples], decoding: Decoding
) -> Request:
    """The request for some stretches of the stream; each image's window is a function of its place there."""
    numbers = np.concatenate([part.numbers for part in parts])
    if not augment:
        return _centre_request(store, numbers, decoding)
    drawn = [augment(seed, part.epoch, part.position, store.sizes(part.numbers)) for part in parts]
    windows = Windows(*map(np.concatenate, zip(*drawn, strict=True)))
    return Request(numbers, windows, np.concatenate([np.zeros(windows.shape.shape), windows.shape], 1))


def _shards_of(store: Store, parts: Iterable[Samples]) -> np.ndarray:
    """The shards that hold some stretches of the stream, each once, those first that are needed first."""
    shards = store.shards(np.concatenate([part.numbers for part in parts]))
    return shards[np.sort(np.unique(shards, return_index=True)[1])]


def spread(policy: LargeBatchPolicy, workers: int, ahead: int) -> int:
    """How far apart along the stream workers may be at work, in samples, with so many micro-batches begun by each."""
    steps = [first for first, _ in policy.stretches()]
    return max(step.global_batch * (1 + math.ceil(ahead / max(1, step.micro_batches // workers))) for step in steps)


def shards_at_once(shard_samples: np.ndarray, window: int, spread: int) -> int:
    """How many shards two parts of ``TrainRequests.shards_from``, in a blocked order, may have together.

    Of two that follow on each other, one may have the last window of an epoch, perhaps of a single shard, and so a
    window more than it takes.
    """
    enough = np.searchsorted(np.sort(shard_samples).cumsum(), spread) + 1  # of the smallest ones
    return min(len(shard_samples), (2 * math.ceil(enough / window) + 1) * window)


def evaluation_requests(store: Store, batch_size: int, worker: Worker, decoding: Decoding) -> Iterator[Request]:
    """This worker's part of a split, every sample of it once; the last batch may be short."""
    start, stop = share(len(store), worker.rank, worker.size)
    for first in range(start, stop, batch_size):
        yield _centre_request(store, np.arange(first, min(first + batch_size, stop)), decoding)


def evaluation_shards(store: Store, worker: Worker, in_flight: int) -> Iterator[np.ndarray]:
    """The shards that this worker's part of a split lies in, in their order: parts of twice as many samples, at least,
    as are in flight, so that there is time to fetch one while the one before is read."""
    start, stop = share(len(store), worker.rank, worker.size)
    if start == stop:
        return
    first, last = store.shards(np.array([start, stop - 1]))
    shards = np.arange(first, last + 1)
    samples = store.shard_samples[shards].cumsum()
    while len(shards):
        count = int(np.searchsorted(samples, 2 * in_flight)) + 1
        yield shards[:count]
        shards, samples = shards[count:], samples[count:] - samples[min(count, len(samples)) - 1]


def evaluation_shards_at_once(shard_samples: np.ndarray, in_flight: int) -> int:
    """How many shards two parts of `evaluation_shards` may have together."""
    enough = int(np.searchsorted(np.sort(shard_samples).cumsum(), 2 * in_flight)) + 1  # of the smallest ones
    return min(len(shard_samples), 2 * enough)


def _centre_request(store: Store, numbers: np.ndarray, decoding: Decoding) -> Request:
    sizes = store.sizes(numbers)
    resized, anchor = centre_crops(sizes, decoding.resize_shorter, decoding.image_size)
    scale = sizes / resized
    start, end = anchor * scale, (anchor + decoding.image_size) * scale
    reach = np.maximum(scale, 1) + 1  # of the resizing filter, and a pixel for the rounding
    low = np.maximum(np.floor(start - reach), 0).astype(np.int64)
    high = np.minimum(np.ceil(end + reach), sizes).astype(np.int64)
    windows = Windows(low, high - low, np.zeros(len(numbers), bool))
    return Request(numbers, windows, np.concatenate([start - low, end - low], 1))
