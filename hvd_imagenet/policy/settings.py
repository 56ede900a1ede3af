"""The settings of the policy: batch size and learning rate, each with its meaning, unit and default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

HIGHEST_RATE = 1e30  # scaled, it still is a float32


def require(condition: bool, key: str, value: object, remedy: str) -> None:
    """Raise ``ValueError`` as "key: value; remedy" unless the condition holds."""
    if not condition:
        raise ValueError(f"{key}: {value}; {remedy}")


def is_positive(value: float) -> bool:
    """Whether a number is above 0 and finite."""
    return math.isfinite(value) and value > 0


@dataclass(frozen=True)
class GrowSettings:
    """Grow the batch where the step schedule would divide the learning rate (Smith et al., 1711.00489).

    Args:
        limit: the largest global batch to grow to, in samples; null: the schedule divides the rate as usual.
            Where the limit is reached, the rest of the factor is taken from the learning rate.
    """

    limit: int | None = None

    def __post_init__(self):
        require(
            self.limit is None or self.limit > 0, "batch.grow.limit", self.limit, "give a number of samples above 0"
        )


@dataclass(frozen=True)
class BatchSettings:
    """How many samples a step takes.

    Args:
        global_size: samples per step over all workers (the paper's kn); or a ramp, a table {epoch: samples}.
        micro_size: samples that one forward pass and its batch normalisation see (the paper's n).
            It is a hyper-parameter of the model, whatever the number of workers (section 2.3).
        forward_size: samples that run through the network at once, a multiple of micro_size: several micro-batches,
            each with a batch normalisation of its own, so that nothing changes but the speed. auto: measured when
            training starts; null: one micro-batch.
        grow: grow the batch at the schedule's milestones instead of dividing the rate.
    """

    global_size: int | dict[float, int] = 256
    micro_size: int = 32
    forward_size: int | Literal["auto"] | None = None
    grow: GrowSettings = field(default_factory=GrowSettings)

    def __post_init__(self):
        require(self.micro_size > 0, "batch.micro_size", self.micro_size, "give a number of samples above 0")
        table = self.global_size if isinstance(self.global_size, dict) else {0: self.global_size}
        numbers = all(isinstance(epoch, int | float) and isinstance(size, int) for epoch, size in table.items())
        require(numbers, "batch.global_size", self.global_size, "give a whole number, or a table {epoch: samples}")
        ramp = self.ramp()
        require(ramp[:1] and ramp[0][0] == 0, "batch.global_size", self.global_size, "the ramp must start at epoch 0")
        for epoch, size in ramp:
            require(
                math.isfinite(epoch) and epoch >= 0,
                "batch.global_size",
                self.global_size,
                f"{epoch} is no epoch: give a number from 0",
            )
            lower = size // self.micro_size * self.micro_size
            remedy = f"give {lower} or {lower + self.micro_size}" if lower > 0 else f"give {self.micro_size} or more"
            require(
                size > 0 and size % self.micro_size == 0,
                "batch.global_size",
                size,
                f"must be a multiple of batch.micro_size ({self.micro_size}): {remedy}",
            )
        size = self.forward_size
        whole = isinstance(size, int) and size > 0 and size % self.micro_size == 0
        require(whole or size in ("auto", None), "batch.forward_size", size,
                f"give a multiple of batch.micro_size ({self.micro_size}), auto or null")  # fmt: skip
        limit = self.grow.limit
        largest = max(size for _, size in ramp)
        require(
            limit is None or limit >= largest,
            "batch.grow.limit",
            limit,
            f"must be at least batch.global_size ({largest})",
        )

    def ramp(self) -> list[tuple[float, int]]:
        """The global batch as (from epoch, samples) pairs in the order of the epochs."""
        if isinstance(self.global_size, dict):
            return sorted(self.global_size.items())
        return [(0.0, self.global_size)]


@dataclass(frozen=True)
class WarmupSettings:
    """How the learning rate gets from the reference to the target (section 2.2); used only where the target is above.

    Args:
        kind: gradual: by a constant amount each step; constant: the reference until the end of the warmup;
            none: the target from the first step.
        epochs: length of the warmup, in epochs.
    """

    kind: Literal["gradual", "constant", "none"] = "gradual"
    epochs: float = 5

    def __post_init__(self):
        require(
            math.isfinite(self.epochs) and self.epochs >= 0, "lr.warmup.epochs", self.epochs, "give a number from 0"
        )


@dataclass(frozen=True)
class ScheduleSettings:
    """How the target learning rate falls over the run.

    Args:
        kind: step: times `factor` at each milestone; cosine: half a cosine from 1 to 0; polynomial: (1 - t)^power;
            none: constant.
        milestones: step only: the epochs at which the rate falls.
        factor: step only: what the rate is multiplied by, above 0 and below 1.
        power: polynomial only: the exponent.
    """

    kind: Literal["step", "cosine", "polynomial", "none"] = "step"
    milestones: list[float] = field(default_factory=lambda: [30, 60, 80])
    factor: float = 0.1
    power: float = 2.0

    def __post_init__(self):
        require(0 < self.factor < 1, "lr.schedule.factor", self.factor, "give a number above 0 and below 1")
        require(is_positive(self.power), "lr.schedule.power", self.power, "give a number above 0")
        in_order = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        in_range = all(math.isfinite(epoch) and epoch > 0 for epoch in self.milestones)
        require(
            in_order and in_range, "lr.schedule.milestones", self.milestones, "give rising numbers of epochs above 0"
        )


@dataclass(frozen=True)
class LearningRateSettings:
    """The learning rate of a step.

    Args:
        reference: learning rate at the reference batch (the paper's 0.1).
        reference_batch: the batch, in samples, that `reference` was found for (the paper's 256).
        scaling: linear: batch times k, rate times k (section 2.1); sqrt: rate times the root of k; none: unscaled.
        warmup: how the rate gets up to the target.
        schedule: how the target falls.
    """

    reference: float = 0.1
    reference_batch: int = 256
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    warmup: WarmupSettings = field(default_factory=WarmupSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)

    def __post_init__(self):
        in_range = is_positive(self.reference) and self.reference <= HIGHEST_RATE
        require(in_range, "lr.reference", self.reference, f"give a number above 0, at most {HIGHEST_RATE:g}")
        require(
            self.reference_batch > 0, "lr.reference_batch", self.reference_batch, "give a number of samples above 0"
        )
