"""How many micro-batches run through a network as one: cutting a worker's part of a step, finding what is fastest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from statistics import median
from typing import TypeVar

from hvd_imagenet.policy import BatchSettings
from hvd_imagenet.stream import share

T = TypeVar("T")

WORTH = 0.98  # of the seconds that a sample takes: a larger forward that gains less is not worth its memory
TRIES = 3


def forwards(micro_batches: Iterable[T], count: int, most: int) -> Iterator[list[T]]:
    """A worker's micro-batches of a step as few forwards of nearly the same size, which need few traces.

    Args:
        count: how many micro-batches there are.
        most: of a forward.
    """
    batches, parts = iter(micro_batches), math.ceil(count / most)
    for part in range(parts):
        first, end = share(count, part, parts)
        yield list(islice(batches, end - first))


def most_per_forward(batch: BatchSettings, workers: int) -> int:
    """How many micro-batches a forward may have, by the settings; where that is measured, as a step has for each."""
    if batch.forward_size is None:
        return 1
    if batch.forward_size == "auto":
        return math.ceil(max(size for _, size in batch.ramp()) / batch.micro_size / workers)
    return batch.forward_size // batch.micro_size


def fastest(most: int, take: Callable[[int], None], gather: Callable[[float], list[float]]) -> int:
    """The number of micro-batches in a forward, of 1, 2, 4, ..., that is fastest for the slowest worker.

    Args:
        most: not to be exceeded.
        take: runs forward and backward of so many, to the end; raises MemoryError where there is too little.
        gather: every worker's value.
    """
    best, least, count = 1, math.inf, 1
    while count <= most:
        seconds = max(gather(_seconds(take, count))) / count
        if seconds >= WORTH * least:
            break
        best, least, count = count, seconds, 2 * count
    return best


def _seconds(take: Callable[[int], None], count: int) -> float:
    """The median of a few times; infinite: there is not enough memory."""
    moments = []
    try:
        take(count)  # for the first time, which prepares much
        for _ in range(TRIES + 1):
            moments.append(time.perf_counter())
            take(count)
    except MemoryError:
        return math.inf
    return median(later - earlier for earlier, later in pairwise(moments))
