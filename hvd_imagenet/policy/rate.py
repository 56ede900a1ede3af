"""The learning rate's factors as pure functions: scaling, decay and warmup (paper sections 2.1, 2.2 and 5.1)."""

from __future__ import annotations

import math

from hvd_imagenet.policy.settings import ScheduleSettings


def scaled(kind: str, ratio: float) -> float:
    """What the rate is multiplied by when the batch is `ratio` times the reference batch.

    Linear is the paper's rule: k times the batch, k times the rate (section 2.1).
    """
    return {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[kind]


def decay(schedule: ScheduleSettings, progress: float) -> float:
    """The smooth schedules' factor after a fraction `progress` (0 to 1) of the run; 1 for step and none.

    The step schedule is constant between milestones and therefore part of the phase (`ramp.phases`).
    """
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "polynomial":
        return (1 - progress) ** schedule.power
    return 1.0


def warmed_up(kind: str, reference: float, target: float, progress: float) -> float:
    """The rate after a fraction `progress` of the warmup; the target from 1 on, or if not above the reference.

    Gradual warmup starts at the reference and adds a constant amount each step (section 2.2).
    """
    if kind == "none" or progress >= 1 or target <= reference:
        return target
    if kind == "constant":
        return reference
    return reference + (target - reference) * progress
