"""Figures of repeated measurements: the median, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from statistics import median

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        median: of the values.
        low, high: an interval that holds the true median with 95 % confidence, whatever the distribution, by order
            statistics; with five values or fewer, which are too few for that, from the least to the greatest.
        values: in the order in which they were measured.
    """

    median: float
    low: float
    high: float
    values: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        ordered = sorted(values)
        left_out = _left_out(len(ordered))
        return cls(median(ordered), ordered[left_out], ordered[-1 - left_out], list(values))


def _left_out(count: int) -> int:
    """How many of the least, and as many of the greatest, of `count` values an interval can do without."""
    left_out, missed = 0, 2 * 0.5**count  # the chance that the median lies outside
    while left_out < count // 2 - 1:
        missed += 2 * comb(count, left_out + 1) * 0.5**count
        if missed > 1 - CONFIDENCE:
            break
        left_out += 1
    return left_out
