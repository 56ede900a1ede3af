"""What a contestant does in a block, and how the first of its processes leads the others."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

SHORTEST = 1e-9  # seconds: a step that a clock cannot see


class Answer(NamedTuple):
    """What one block came to.

    Attributes:
        amount: of what is counted.
        seconds: that it took.
        steps: that it took.
        told: seconds of a step by what they went to, in the mean over the processes.
    """

    amount: float
    seconds: float
    steps: int
    told: dict[str, float]


class Work:
    """What a contestant does, step by step; in one process, unless a subclass says otherwise.

    Attributes:
        rank, size: of this process among those that work together.
        amount: of what is counted, that all of them together do in a step.
        warm_up: steps before the first block.
        steady: whether a step takes about as long as the one before, so that a block can be planned.
    """

    rank, size = 0, 1
    amount = 1.0
    warm_up = 2
    steady = True

    def prepare(self, asked: Any) -> None:
        """Make ready for a block of a certain kind, where there are several."""

    def take(self, steps: int) -> None:
        """Take so many steps, without waiting for the device."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for the device."""

    def told(self) -> dict[str, float]:
        """Seconds of a step by what they went to, since the last call."""
        return {}

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, on all of them."""
        return [value]


class Turns:
    """A process's blocks: it leads those of the others, or follows the first one."""

    def __init__(self, work: Work):
        self._work = work
        self._pace: dict[str, float] = {}  # seconds of a step, by what is asked for

    def lead(self, asked: Any, seconds: float) -> Answer:
        """As the first process: one block of about so many seconds."""
        work, kind = self._work, json.dumps(asked)
        work.gather(asked)
        self._prepare(asked)
        taken, start = 0, 0.0
        passed, pace = 0.0, self._pace[kind]
        while count := steps_left(seconds - passed, pace, taken):
            count = count if work.steady else 1
            work.gather(count)
            start = start or time.perf_counter()
            work.take(count)
            taken += count
            passed = time.perf_counter() - start
            pace = max(passed / taken, SHORTEST)
            if work.steady:  # to say how many more would take the time of an exchange
                break
        work.finish()
        passed = time.perf_counter() - start
        self._pace[kind] = max(passed / taken, SHORTEST)
        work.gather(0)
        told = work.gather(work.told())
        return Answer(taken * work.amount, passed, taken, {key: _mean([one[key] for one in told]) for key in told[0]})

    def follow(self) -> None:
        """As any other process: one block."""
        work = self._work
        self._prepare(work.gather(None)[0])
        while count := work.gather(None)[0]:
            work.take(count)
        work.finish()
        work.gather(work.told())

    def _prepare(self, asked: Any) -> None:
        work, kind = self._work, json.dumps(asked)
        work.prepare(asked)
        if kind not in self._pace:
            work.take(work.warm_up)
            work.finish()
            start = time.perf_counter()
            work.take(1)
            work.finish()
            self._pace[kind] = max(time.perf_counter() - start, SHORTEST)
            work.told()


def steps_left(seconds: float, pace: float, taken: int) -> int:
    """How many steps come closest to the seconds that are left of a block, which has one step at least.

    Args:
        pace: seconds of a step, above 0.
        taken: steps of the block so far.
    """
    return max(0 if taken else 1, round(seconds / pace))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
