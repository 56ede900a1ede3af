"""A limit: copying as many bytes from one place in the host's memory to another, by all workers at the same time."""

from __future__ import annotations

import numpy as np

from hvd_imagenet.bench.reductions import elements
from hvd_imagenet.bench.work import Work


class Copy(Work):
    """Each worker for itself."""

    def __init__(self):
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def prepare(self, asked: dict[str, int]) -> None:
        # Ones, since zeros have no memory of their own before they are written.
        self._pairs = [(np.ones(count, np.float32), np.ones(count, np.float32)) for count in elements(asked)]

    def take(self, steps: int) -> None:
        for _ in range(steps):
            for target, source in self._pairs:
                np.copyto(target, source)


def work() -> Copy:
    return Copy()
