"""The PyTorch half: network, optimizer, batch normalisation, gradient sum, backend.

For training loops of one's own: `LargeBatchLR`, `sgd_param_groups` and `zero_last_gamma`.
"""

from hvd_imagenet.torch.initial import zero_last_gamma
from hvd_imagenet.torch.optim import sgd_param_groups
from hvd_imagenet.torch.schedule import LargeBatchLR

__all__ = ["LargeBatchLR", "sgd_param_groups", "zero_last_gamma"]
