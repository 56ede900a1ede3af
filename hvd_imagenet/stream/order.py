"""The sample stream: epoch 0's shuffle of the whole training set, then epoch 1's, and so on without end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hvd_imagenet.stream import philox


def permutation(seed: int, epoch: int, dataset_size: int) -> np.ndarray:
    """The shuffle of one epoch (section 3, remark 4): sample numbers, int64, shape (dataset_size,), each once."""
    return shuffled(seed, f"shuffle/{epoch}", dataset_size)


def shuffled(seed: int, purpose: str, count: int) -> np.ndarray:
    """The numbers from 0 to count - 1, int64, in the random order of a seed and a purpose."""
    return np.argsort(philox.raw(seed, purpose, 0, count), kind="stable")


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
        seed: any integer; the stream is a pure function of it.
        dataset_size: samples in the training set.
    """

    def __init__(self, seed: int, dataset_size: int):
        self.seed = seed
        self.dataset_size = dataset_size
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def stretches(self, start: int, count: int) -> Iterator[Samples]:
        """Samples start .. start + count of the stream, cut where an epoch ends."""
        while count > 0:
            epoch, position = divmod(start, self.dataset_size)
            taken = min(count, self.dataset_size - position)
            yield Samples(epoch, position, self._shuffled(epoch)[position : position + taken])
            start, count = start + taken, count - taken

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:  # kept: an epoch is asked for many times in a row
            self._order, self._epoch = permutation(self.seed, epoch, self.dataset_size), epoch
        return self._order
