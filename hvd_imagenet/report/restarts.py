"""The restarts of runs: when, on how many workers, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hvd_imagenet.report.accounts import number, plain
from hvd_imagenet.report.arms import Arm
from hvd_imagenet.report.run import Run


class Restart(NamedTuple):
    """A run goes on from a checkpoint, or with other workers.

    Attributes:
        arm: number of the run's arm; run: the run's label.
        epoch: where; None: unknown.
        step: finished steps; time: as it was written down.
        workers, before: how many there were after and before; None: unknown.
        reason: if it is known.
    """

    arm: int
    run: str
    epoch: float | None
    step: int
    time: str
    workers: int | None
    before: int | None
    reason: str

    @property
    def told(self) -> str:
        """All of it in a line."""
        where = f"restart after step {self.step:,}"
        workers = f"{self.before} → {self.workers} workers" if self.before else f"on {self.workers} workers"
        return ", ".join(filter(None, (where, workers if self.workers else "", self.reason, self.time)))


def restarts(arms: list[Arm]) -> list[Restart]:
    """Of all runs, in their order."""
    return [
        _restart(arm, run, event) for arm, of in enumerate(arms) for run in of.runs for event in run.events.restarts
    ]


def _restart(arm: int, run: Run, event: dict[str, Any]) -> Restart:
    samples, size = number(event, "samples_seen"), _dataset_size(run)
    return Restart(
        arm,
        run.label,
        samples / size if samples is not None and size else None,
        int(event["step"]),
        plain(event["time"] or ""),
        _whole(event, "workers"),
        _whole(event, "workers_before"),
        plain(event["reason"] or ""),
    )


def _whole(event: dict[str, Any], key: str) -> int | None:
    value = number(event, key)
    return None if value is None else int(value)


def _dataset_size(run: Run) -> float | None:
    """Training images: what the steps' samples and epochs tell of, since that is what the figures are drawn by."""
    steps = run.events.steps
    known = np.flatnonzero((steps["epoch"] > 0) & (steps["samples_seen"] > 0))
    if not len(known):
        return number(run.accounts.settings or {}, "data.train_samples")
    return steps["samples_seen"][known[-1]].item() / steps["epoch"][known[-1]].item()
