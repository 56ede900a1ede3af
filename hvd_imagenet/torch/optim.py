"""SGD as the paper has it, and the sum of gradients over the workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import horovod.torch as hvd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm

from hvd_imagenet.config import OptimizerSettings


def sgd_param_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for SGD: weight decay on everything but gamma and beta of batch normalisation (section 5.1)."""
    exempt = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, _BatchNorm)
        for parameter in layer.parameters(recurse=False)
    }
    decayed, undecayed = [], []
    for parameter in model.parameters():
        (undecayed if id(parameter) in exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def sgd(model: nn.Module, settings: OptimizerSettings) -> torch.optim.SGD:
    """SGD with coupled weight decay, whose velocity u does not absorb the learning rate.

    u <- m u + (g + lambda w); w <- w - eta u. No momentum correction is needed (section 3, remark 2), and the decay is
    added to the aggregated gradient (remark 1). The learning rate is set before each step.
    """
    groups = sgd_param_groups(model, settings.weight_decay)
    # Fused: one pass over the memory in place of five, on a CPU as on a GPU.
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)


def norms_of(model: nn.Module) -> torch.Tensor:
    """L2 norms over all trainable parameters: of the gradients and of the weights; shape (2,), on their device."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        return torch.stack([get_total_norm([p.grad for p in parameters]), get_total_norm(parameters)])


def sum_over_workers(tensor: torch.Tensor, name: str) -> Callable[[], object]:
    """Begin to replace a contiguous tensor by its sum over the workers; returns what waits until it is there.

    A worker alone has its sum, and does not wait for the next cycle of Horovod to find that out.
    """
    if hvd.size() == 1:
        return lambda: None
    return partial(hvd.synchronize, hvd.allreduce_async_(tensor, name=name, op=hvd.Sum))


def contiguous_view(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor's own memory as a contiguous tensor, channels-last included; None if it has gaps."""
    if tensor.is_contiguous():
        return tensor
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1)
    return None
