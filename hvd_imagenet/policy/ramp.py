"""The piecewise constant part of a run: batch size and peak learning rate between one milestone and the next."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from hvd_imagenet.policy.clock import exact, samples_at
from hvd_imagenet.policy.rate import scaled
from hvd_imagenet.policy.settings import BatchSettings, LearningRateSettings


@dataclass(frozen=True)
class Phase:
    """A stretch of the run with one batch size and one peak rate.

    Attributes:
        start: in force for steps whose first sample is at or after this sample count.
        global_batch: samples per step.
        peak_rate: the target learning rate, before warmup and the smooth schedules.
    """

    start: int
    global_batch: int
    peak_rate: float


def phases(dataset_size: int, batch: BatchSettings, lr: LearningRateSettings) -> list[Phase]:
    """The phases of a run in order, the first one starting at 0, each start once.

    Both batch ramps are here: the table {epoch: size}, whose rate follows the scaling rule, and `grow`, which at a
    milestone sets B to min(limit, B / factor) in whole micro-batches and the rate so that rate / B falls by exactly
    `factor`. Table entries come before a milestone at the same epoch. Rates are worked out as fractions
    and rounded once, so that 3.2 divided by 10 prints as 0.32.
    """
    milestones = lr.schedule.milestones if lr.schedule.kind == "step" else []
    factor = exact(lr.schedule.factor)
    events = [(samples_at(epoch, dataset_size), size) for epoch, size in batch.ramp()]
    events += [(samples_at(epoch, dataset_size), None) for epoch in milestones]
    events.sort(key=lambda event: (event[0], event[1] is None))

    table_size = size = 0
    decayed = Fraction(1)
    found: dict[int, Phase] = {}
    for start, new_size in events:
        if new_size is not None:
            table_size = size = new_size
        else:
            decayed *= factor
            if batch.grow.limit is not None:
                grown = min(Fraction(batch.grow.limit), size / factor)
                size = int(grown // batch.micro_size) * batch.micro_size
        rate = exact(lr.reference) * decayed * Fraction(size, table_size)
        ratio = Fraction(table_size, lr.reference_batch)
        peak = float(rate * ratio) if lr.scaling == "linear" else float(rate) * scaled(lr.scaling, float(ratio))
        found[start] = Phase(start, size, peak)
    return list(found.values())
