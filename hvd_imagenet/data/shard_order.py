"""In which order the shards of a split come to be read, where the stream of samples does not say it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hvd_imagenet.data.store import Store
from hvd_imagenet.stream import SampleStream


def in_order(store: Store, start: int, stop: int) -> Iterator[np.ndarray]:
    """Windows of one shard each, for the samples from `start` to `stop` one after the other."""
    if start < stop:
        first, last = store.shards(np.array([start, stop - 1]))
        yield from np.arange(first, last + 1)[:, None]


def in_shuffled_order(store: Store, stream: SampleStream, start: int) -> Iterator[np.ndarray]:
    """One window of all shards, since any may be needed at any time; those first that a global shuffle needs first.

    Args:
        stream: for this purpose only: it may be used on another thread.
        start: samples of the stream before.
    """
    shards = store.shards(np.concatenate([part.numbers for part in stream.stretches(start, len(store))]))
    yield shards[np.sort(np.unique(shards, return_index=True)[1])]
