"""What a step should be: a pure function from samples seen to batch size and learning rate."""

from hvd_imagenet.policy.policy import LargeBatchPolicy, StepPlan
from hvd_imagenet.policy.settings import (
    BatchSettings,
    GrowSettings,
    LearningRateSettings,
    ScheduleSettings,
    WarmupSettings,
)

__all__ = [
    "BatchSettings",
    "GrowSettings",
    "LargeBatchPolicy",
    "LearningRateSettings",
    "ScheduleSettings",
    "StepPlan",
    "WarmupSettings",
]
