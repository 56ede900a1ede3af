"""The workers that the others wait for: of each run the one that is slowest most often, and by how much."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from hvd_imagenet.report.accounts import plain
from hvd_imagenet.report.arms import Arm
from hvd_imagenet.report.run import Run


class Straggler(NamedTuple):
    """The worker of a run that was the slowest in most of the logged steps.

    Attributes:
        arm: number of the run's arm; run: the run's label.
        rank, host: of the worker; None: unknown.
        share: of the logged lines in which it was the slowest; on_host: in which it or another one of its host was;
            None: unknown.
        behind: mean seconds per step, in those lines, that its own time was longer than the median worker's; ratio: to
            that; both None: unknown.
        lost: the mean, over all lines, of what the slowest worker's, whichever it was, was longer, in seconds.
    """

    arm: int
    run: str
    rank: int
    host: str | None
    share: float
    on_host: float | None
    behind: float | None
    ratio: float | None
    lost: float | None


def stragglers(arms: list[Arm]) -> list[Straggler]:
    """Of each run that has logged them, as those of several workers do: first those that lose the most time by it."""
    runs = ((number, run) for number, arm in enumerate(arms) for run in arm.runs)
    found = [one for number, run in runs if (one := _straggler(number, run))]
    return sorted(found, key=lambda one: -(one.lost or 0))


def _straggler(arm: int, run: Run) -> Straggler | None:
    steps = run.events.steps
    there = np.isfinite(steps["slowest_rank"])
    if not there.any():
        return None
    ranks, hosts = steps["slowest_rank"][there], run.events.slowest_hosts[there]
    median = steps["median_seconds"][there]
    behind = steps["slowest_seconds"][there] - median
    workers = Counter(zip(ranks.tolist(), hosts.tolist(), strict=True))  # the same rank may come to be on another host
    (rank, host), count = workers.most_common(1)[0]
    its = (ranks == rank) & (hosts == host)
    late, usual = _mean(behind[its]), _mean(median[its])
    return Straggler(
        arm,
        run.label,
        rank=int(rank),
        host=None if host is None else plain(host),
        share=count / len(ranks),
        on_host=None if host is None else float(np.mean(hosts == host)),
        behind=late,
        ratio=late / usual if late is not None and usual else None,
        lost=_mean(behind),
    )


def _mean(values: np.ndarray) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None
