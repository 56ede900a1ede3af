"""The settings of a run: each with its meaning, unit and default, checked when made."""

from hvd_imagenet.config.data import DataSettings, DecoderSettings, StreamSettings
from hvd_imagenet.config.run import (
    AllreduceSettings,
    CheckpointSettings,
    Config,
    EvaluateSettings,
    FaultSettings,
    LogSettings,
    ModelSettings,
    OptimizerSettings,
)

__all__ = ["AllreduceSettings", "CheckpointSettings", "Config", "DataSettings", "DecoderSettings", "EvaluateSettings"]
__all__ += ["FaultSettings", "LogSettings", "ModelSettings", "OptimizerSettings", "StreamSettings"]
