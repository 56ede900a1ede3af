"""What the workers spend their time on, over the steps between two logged lines, and which of them is the slowest."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from hvd_imagenet.totals import StepTotals, Times


class Spending:
    """Adds up the workers' times.

    Args:
        hosts: of all workers, by rank.
    """

    def __init__(self, hosts: list[str]):
        self._hosts = hosts
        self._steps: list[list[Times]] = []

    def add(self, totals: StepTotals) -> None:
        """One more step, with the times of the one before it."""
        if totals.times[0].whole:  # else it was the first step of this job
            self._steps.append(totals.times)

    def since(self) -> dict[str, Any]:
        """What the steps have taken since the last call, in the mean, in seconds per step, as metrics.jsonl has it;
        nothing if there are none.

        Waiting for data and for the all-reduce is the mean over the workers; computing is the rest. A worker's own time
        is what it does not wait for the others: by that, the slowest is named.
        """
        if not self._steps:
            return {}
        workers = [Times(*map(mean, zip(*times, strict=True))) for times in zip(*self._steps, strict=True)]
        self._steps.clear()
        of_all = Times(*map(mean, zip(*workers, strict=True)))
        values = {
            "data_seconds": of_all.data,
            "compute_seconds": of_all.whole - of_all.data - of_all.allreduce,
            "communication_seconds": of_all.allreduce,
        }
        if len(workers) > 1:
            own = [times.whole - times.allreduce for times in workers]
            slowest = own.index(max(own))
            values |= {"slowest_rank": slowest, "slowest_host": self._hosts[slowest]}
            values |= {"slowest_seconds": own[slowest], "median_seconds": median(own)}
        return values
