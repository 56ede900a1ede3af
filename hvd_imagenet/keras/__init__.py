"""The Keras half; everything of TensorFlow, Keras and their part of Horovod is in here.

For training loops of one's own: `DistributedOptimizer`, `LargeBatchCallback`, `BroadcastCallback`,
`MetricAverageCallback` and `zero_last_gamma`.
"""

from hvd_imagenet.keras import importing

importing.import_quietly()

from hvd_imagenet.keras.callbacks import BroadcastCallback, MetricAverageCallback  # noqa: E402
from hvd_imagenet.keras.distributed import DistributedOptimizer  # noqa: E402
from hvd_imagenet.keras.initial import zero_last_gamma  # noqa: E402
from hvd_imagenet.keras.schedule import LargeBatchCallback  # noqa: E402

__all__ = [
    "BroadcastCallback",
    "DistributedOptimizer",
    "LargeBatchCallback",
    "MetricAverageCallback",
    "zero_last_gamma",
]
