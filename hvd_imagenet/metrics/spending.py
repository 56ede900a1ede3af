"""What the workers spend their time on, over the steps between two logged lines, and which of them is the slowest."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvd_imagenet.totals import StepTotals, Times

FIRST = 2  # of a job: before the first step there is none, and that one is also for tracing and growing memory


class Spending:
    """Adds up the workers' times.

    Args:
        hosts: of all workers, by rank.
    """

    def __init__(self, hosts: list[str]):
        self._hosts = hosts
        self._seconds = np.zeros((len(hosts), len(Times._fields)))
        self._steps = -FIRST

    def add(self, totals: StepTotals) -> None:
        """One more step, with the times of one before it."""
        self._steps += 1
        if self._steps > 0:
            self._seconds += totals.times

    def since(self) -> dict[str, Any]:
        """What the steps have taken since the last call, in the mean, in seconds per step, as metrics.jsonl has it;
        nothing if there are none.

        Waiting for data and for the all-reduce is the mean over the workers; computing is the rest. A worker's own time
        is what it does not wait for the others: by that, the slowest is named.
        """
        if self._steps <= 0:
            return {}
        workers = self._seconds / self._steps
        self._seconds[:], self._steps = 0, 0
        data, allreduce, whole = workers.mean(0).tolist()
        values = {
            "data_seconds": data,
            "compute_seconds": whole - data - allreduce,
            "communication_seconds": allreduce,
        }
        if len(workers) > 1:
            own = workers[:, 2] - workers[:, 1]
            slowest = int(own.argmax())
            values |= {"slowest_rank": slowest, "slowest_host": self._hosts[slowest]}
            values |= {"slowest_seconds": float(own[slowest]), "median_seconds": float(np.median(own))}
        return values
