"""result.json: the outcome of a run, worked out from its evaluations."""

from __future__ import annotations

from statistics import median
from typing import Any


def accuracies(evaluations: list[dict[str, Any]]) -> dict[str, float]:
    """Validation accuracy as the paper reports it (section 5.1): the last, the best, the median of the last five."""
    last, top1 = evaluations[-1], [event["top1"] for event in evaluations]
    return {
        "val_top1": last["top1"],
        "val_top5": last["top5"],
        "best_top1": max(top1),
        "median5_top1": median(top1[-5:]),
    }
