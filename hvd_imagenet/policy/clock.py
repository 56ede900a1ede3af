"""The edge between epochs and samples: everything inside counts samples."""

from __future__ import annotations

from fractions import Fraction


def exact(number: float) -> Fraction:
    """The decimal number that a person wrote, exactly: 0.29 is 29/100, not the double below it."""
    return Fraction(str(number))


def samples_at(epoch: float, dataset_size: int) -> int:
    """The first sample count that lies in or after the given epoch: S(e) = ceil(e * N).

    Worked out decimally: S(0.29) of 100 samples is 29, although the double 0.29 * 100 is above 29.
    """
    return -(-exact(epoch) * dataset_size // 1)


def periods(every_epochs: float, samples_seen: int, dataset_size: int) -> int:
    """How many times a period of so many epochs has ended: the largest k with S(k * every_epochs) <= samples_seen."""
    return int(samples_seen // (exact(every_epochs) * dataset_size))
