"""The sample stream: epoch 0's order of the whole training set, then epoch 1's, and so on without end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from hvd_imagenet.stream import philox

SHUFFLE_BYTES = 24  # for each number that is shuffled, at the peak: its key, its place, and room to sort in
Made = TypeVar("Made")


def permutation(seed: int, epoch: int, dataset_size: int) -> np.ndarray:
    """The shuffle of one epoch (section 3, remark 4): sample numbers, int64, shape (dataset_size,), each once."""
    return shuffled(seed, f"shuffle/{epoch}", dataset_size)


def shuffled(seed: int, purpose: str, count: int) -> np.ndarray:
    """The numbers from 0 to count - 1, int64, in the random order of a seed and a purpose."""
    return np.argsort(philox.raw(seed, purpose, 0, count), kind="stable")


class Order(Protocol):
    """In which order an epoch takes the samples: a pure function of seed and epoch, with every sample in it once.

    Attributes:
        dataset_size: samples in the training set.
        peak_bytes: memory that a worker needs for it, at the peak.
    """

    dataset_size: int
    peak_bytes: int

    def numbers(self, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
        """Sample numbers at the positions [start, stop) of an epoch, int64, shape (stop - start,)."""

    def shards_from(self, seed: int, start: int) -> Iterator[np.ndarray]:
        """The windows of shards that the stream goes through, from the one that holds its sample `start` on.

        Each is an array of shard numbers, int64, none of them needed any more once the epoch has come to the window
        after it; they go on without end. None at all, where any shard may be needed at any time.
        """


class GlobalOrder:
    """Each epoch a shuffle of all samples.

    Args:
        dataset_size: samples in the training set.
    """

    def __init__(self, dataset_size: int):
        self.dataset_size = dataset_size
        self.peak_bytes = SHUFFLE_BYTES * dataset_size
        self._last = _Last()

    def numbers(self, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
        whole = self._last.get((seed, epoch), lambda: permutation(seed, epoch, self.dataset_size))
        return whole[start:stop].copy()  # a view would keep the whole epoch in memory

    def shards_from(self, seed: int, start: int) -> Iterator[np.ndarray]:
        return iter(())


class BlockedOrder:
    """Each epoch the shards are shuffled and cut into windows, and the samples of each window are shuffled.

    An epoch reads every shard once, those of a window at a time, and memory holds one window's sample numbers. With a
    single window it is a shuffle of all samples, and so it is where each shard holds one.

    Args:
        shard_samples: how many samples each shard holds, shape (shards,): those that follow on the shards' before.
        window: shards in a window; the last one of an epoch may have fewer.
    """

    def __init__(self, shard_samples: np.ndarray, window: int):
        self._samples = np.asarray(shard_samples, np.int64)
        self._first = self._samples.cumsum() - self._samples  # each shard's first sample
        self._window = window
        self.dataset_size = int(self._samples.sum())
        largest = int(np.sort(self._samples)[-window:].sum())
        # A window's samples are there, too, while their order is worked out.
        self.peak_bytes = SHUFFLE_BYTES * len(self._samples) + (SHUFFLE_BYTES + 8) * largest
        self._last_epoch, self._last_window = _Last(), _Last()

    def numbers(self, seed: int, epoch: int, start: int, stop: int) -> np.ndarray:
        shards, ends = self._last_epoch.get((seed, epoch), lambda: self._windows(seed, epoch))
        parts = []
        while start < stop:
            window = int(np.searchsorted(ends, start, side="right"))
            numbers = self._last_window.get(
                (seed, epoch, window), lambda window=window: self._shuffled(seed, epoch, window, shards)
            )
            place = start - int(ends[window]) + len(numbers)
            parts.append(numbers[place : place + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def shards_from(self, seed: int, start: int) -> Iterator[np.ndarray]:
        epoch, position = divmod(start, self.dataset_size)
        while True:
            shards, ends = self._windows(seed, epoch)
            for window in range(int(np.searchsorted(ends, position, side="right")), len(ends)):
                yield self._shards_of(window, shards)
            epoch, position = epoch + 1, 0

    def _windows(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """An epoch's order of the shards, and the positions in it where the windows end."""
        shards = shuffled(seed, f"shards/{epoch}", len(self._samples))
        starts = np.arange(0, len(shards), self._window)
        return shards, np.add.reduceat(self._samples[shards], starts).cumsum()

    def _shards_of(self, window: int, shards: np.ndarray) -> np.ndarray:
        return shards[window * self._window : (window + 1) * self._window]

    def _shuffled(self, seed: int, epoch: int, window: int, shards: np.ndarray) -> np.ndarray:
        """The samples of a window in their order."""
        inside = self._shards_of(window, shards)
        counts = self._samples[inside]
        samples = np.repeat(self._first[inside] - (counts.cumsum() - counts), counts)
        samples += np.arange(len(samples))
        return samples[shuffled(seed, f"window/{epoch}/{window}", len(samples))]


class _Last:
    """What was made last: the same is asked for many times in a row. Threads may share it."""

    def __init__(self):
        self._kept: tuple = None, None

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returns; not made again for the key of the last time."""
        kept = self._kept
        if kept[0] != key:
            kept = self._kept = None, None  # let go of the old before there is a new: both may be large
            kept = self._kept = key, make()
        return kept[1]


@dataclass(frozen=True)
class Samples:
    """A stretch of the stream within one epoch.

    Attributes:
        epoch: the epoch it lies in.
        position: where in the epoch it starts; with seed and epoch, what augmentation depends on.
        numbers: sample numbers, int64, shape (count,).
    """

    epoch: int
    position: int
    numbers: np.ndarray


class SampleStream:
    """Random access to the endless sequence of sample numbers; no sample dropped or doubled, no epoch padded.

    Args:
        seed: any integer; the stream is a pure function of it and of the order.
        order: in which an epoch takes the samples.
    """

    def __init__(self, seed: int, order: Order):
        self.seed = seed
        self.order = order

    def stretches(self, start: int, count: int) -> Iterator[Samples]:
        """Samples start .. start + count of the stream, cut where an epoch ends."""
        while count > 0:
            epoch, position = divmod(start, self.order.dataset_size)
            taken = min(count, self.order.dataset_size - position)
            yield Samples(epoch, position, self.order.numbers(self.seed, epoch, position, position + taken))
            start, count = start + taken, count - taken

    def shards_from(self, start: int) -> Iterator[np.ndarray]:
        """The windows of shards that the stream goes through from its sample `start` on, see ``Order.shards_from``."""
        return self.order.shards_from(self.seed, start)
