"""Time spent in steps, without evaluations and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Runs from its making on, but for pauses.

    Args:
        seconds: what it shows at first.
        samples: samples that have been trained on by then.
    """

    def __init__(self, seconds: float, samples: int):
        self._start = time.monotonic() - seconds
        self._lap = seconds, samples

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def images_per_second(self, samples: int) -> float:
        """The rate since the last call, given the samples trained on by now."""
        (seconds_before, samples_before), self._lap = self._lap, (self.seconds(), samples)
        return (samples - samples_before) / (self._lap[0] - seconds_before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not counted."""
        start = time.monotonic()
        yield
        self._start += time.monotonic() - start
