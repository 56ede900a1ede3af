"""What steps and evaluations count, summed over all workers, and how it comes from the devices to the trainer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hvd_imagenet.policy import StepPlan

T = TypeVar("T")

SUMS = 4  # summed loss, top-1, top-5 and number of samples
COUNTS = SUMS + 1  # and how many workers are asked to stop


class Times(NamedTuple):
    """Seconds of a worker's part in a step.

    Attributes:
        data: waited for its micro-batches, with nothing left to do.
        allreduce: with its gradients ready, waited for their sum, and so for slower workers.
        whole: all of it.
    """

    data: float = 0.0
    allreduce: float = 0.0
    whole: float = 0.0


class Norms(NamedTuple):
    """L2 norms over all trainable parameters: of the step's mean loss gradient, without weight decay, and of the
    weights before the step."""

    gradient: float
    weights: float


@dataclass(frozen=True)
class Totals:
    """Sums over samples, of all workers: no means of means.

    Attributes:
        loss_sum: cross-entropy, summed.
        top1, top5: how many samples have the right class among their first, or first five, answers.
        count: how many samples.
    """

    loss_sum: float
    top1: int
    top5: int
    count: int

    @classmethod
    def of(cls, sums: Iterable[float]) -> Totals:
        """From the numbers in their order, as a device adds them up."""
        loss_sum, *integers = sums
        return cls(loss_sum, *map(round, integers))

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.loss_sum + other.loss_sum, self.top1 + other.top1, self.top5 + other.top5, self.count + other.count
        )

    @property
    def loss(self) -> float:
        return self.loss_sum / self.count

    def accuracies(self) -> dict[str, float]:
        """Top-1 and top-5 accuracy as fractions."""
        return {"top1": self.top1 / self.count, "top5": self.top5 / self.count}


@dataclass(frozen=True)
class StepTotals(Totals):
    """Those of a step.

    Attributes:
        stop: how many workers were asked to stop.
        times: of each worker, by rank, in the step before, since a step is not over when its sums are under way; on a
            device that may be a step behind, in the one before that.
        norms: None: not asked for.
    """

    stop: int
    times: list[Times]
    norms: Norms | None = None


def tail_length(workers: int) -> int:
    """How many numbers the end of the step vector has, behind the statistics of batch normalisation."""
    return COUNTS + len(Times._fields) * workers


def own_tail(rank: int, workers: int, stop: bool, times: Times) -> np.ndarray:
    """What a worker adds to the end of the step vector before it has seen a sample; float64.

    Each worker's times have places of their own, in which all others have 0, so that their sum tells each one's.
    """
    tail = np.zeros(tail_length(workers))
    tail[SUMS] = stop
    start = COUNTS + len(times) * rank
    tail[start : start + len(times)] = times
    return tail


def step_totals(tail: list[float], norms: list[float]) -> StepTotals:
    """The end of a step vector, summed over the workers, and the norms, none or both, in words."""
    sums, (stop, *seconds) = tail[:SUMS], tail[SUMS:]
    times = list(map(Times._make, zip(*[iter(seconds)] * len(Times._fields), strict=True)))
    return StepTotals(**vars(Totals.of(sums)), stop=round(stop), times=times, norms=Norms(*norms) if norms else None)


class TakenSteps:
    """The steps that a backend has taken, until their totals are asked for.

    Args:
        late: how many steps the device may be behind when totals are taken without waiting for it.
    """

    def __init__(self, late: int):
        self._late = late
        self._last: deque[tuple[StepPlan, dict[int, Any]]] = deque(maxlen=2)
        self._untaken: deque[tuple[StepPlan, Callable[[], StepTotals]]] = deque()

    def add(self, plan: StepPlan, losses: dict[int, Any], read: Callable[[], StepTotals]) -> None:
        """One more step.

        Args:
            losses: this worker's mean losses, still on the device: of the micro-batches of each forward, by the number
                of its first.
            read: waits for the device, and tells the step's totals.
        """
        self._last.append((plan, losses))
        self._untaken.append((plan, read))

    def take(self, wait: bool) -> list[tuple[StepPlan, StepTotals]]:
        """See `Backend.take_totals`."""
        taken = []
        while len(self._untaken) > (0 if wait else self._late):
            plan, read = self._untaken.popleft()
            taken.append((plan, read()))
        return taken

    def losses(self, plan: StepPlan) -> dict[int, float]:
        """See `Backend.losses`."""
        found = next(losses for of, losses in self._last if of == plan)
        return {first + i: float(loss) for first, means in found.items() for i, loss in enumerate(means)}


class Moment:
    """Now, by this process's clock."""

    def __init__(self):
        self._time = time.perf_counter()

    def seconds_until(self, later: Moment) -> float:
        return later._time - self._time


class Awaited(Iterator[T]):
    """Remembers how long an iterator keeps one waiting.

    Args:
        moment: makes a `Moment`, or something like it by another clock.
    """

    def __init__(self, items: Iterable[T], moment: Callable[[], Any] = Moment):
        self._items = iter(items)
        self._moment = moment
        self._waits: list[tuple[Any, Any]] = []

    def __next__(self) -> T:
        start = self._moment()
        try:
            return next(self._items)
        finally:
            self._waits.append((start, self._moment()))

    def seconds(self) -> float:
        """So far."""
        return sum(start.seconds_until(end) for start, end in self._waits)
