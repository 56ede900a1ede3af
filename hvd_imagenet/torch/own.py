"""A network of the user's own in PyTorch: made, tried on two images, and refused if it cannot be trained."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from hvd_imagenet.config import ModelSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.models import own
from hvd_imagenet.torch.initial import zero_last_gamma


def build_own(
    settings: ModelSettings, image_size: int, seed: int, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """What the user's function makes, with the framework's own initial values, repeatably.

    Raises:
        SettingsError: there is no such function, or what it makes is not a network that can be trained here.
    """
    function = own.find(settings.name)
    torch.manual_seed(own.initial_seed(seed))
    model = own.call(settings.name, function, settings.kwargs)
    own.require_kind(settings.name, model, nn.Module, "torch")
    _require_trainable(settings.name, model)
    volumes = any(tensor.dim() == 5 for tensor in (*model.parameters(), *model.buffers()))  # which have other formats
    model = model.to(device, memory_format=torch.preserve_format if volumes else torch.channels_last)
    model = model.double() if dtype == torch.float64 else model.float()  # `to` would do so to complex numbers, too
    _try_out(settings, model, image_size)
    if settings.zero_last_gamma:
        with suppress(ValueError):  # a network that nobody can see into starts as it is
            zero_last_gamma(model)
    return model


def own_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """By name, what a network keeps beside its parameters, without what is batch normalisation's."""
    kept = model.state_dict(keep_vars=True)
    norms = {id(buffer) for layer in model.modules() if isinstance(layer, _BatchNorm) for buffer in layer.buffers()}
    return {name: b for name, b in model.named_buffers() if name in kept and id(b) not in norms}


def _require_trainable(name: str, model: nn.Module) -> None:
    if any(map(is_lazy, [*model.parameters(), *model.buffers()])):
        raise SettingsError(f"model.name: {name}; has lazy layers: call it on an image before it is returned")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError(f"model.name: {name}; has no parameter to train: return a network with some")
    for layer_name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.momentum is None:
            raise SettingsError(
                f"model.name: {name}; its {layer_name} averages all that it has seen (momentum=None), which depends on "
                "the number of workers: give it a momentum, such as 0.1"
            )


@torch.no_grad()
def _try_out(settings: ModelSettings, model: nn.Module, image_size: int) -> None:
    """Two random images through the network, as in evaluation and as in training, which leave no trace in it."""
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, image_size, image_size, 3, generator=generator).to(like).permute(0, 3, 1, 2)
    for training in (False, True):
        model.train(training)
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # written to instead of its own
        try:
            scores: Any = torch.func.functional_call(model, buffers, (images,))
        except Exception as error:
            raise own.cannot_run(settings.name, tuple(images.shape), error) from None
        shape = scores.shape if isinstance(scores, torch.Tensor) and scores.is_floating_point() else None
        own.require_scores(settings.name, settings.classes, scores, shape)
        own.require_logits(settings.name, scores.tolist())
