"""The networks in PyTorch: the residual ones, built from the table, or the user's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from hvd_imagenet.config import ModelSettings
from hvd_imagenet.models.initial import initial_parameters
from hvd_imagenet.models.spec import BN_EPSILON, BN_MOMENTUM, RESNETS, Block, ConvNorm, ResNet
from hvd_imagenet.torch.own import build_own


def build(
    settings: ModelSettings,
    image_size: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """The network of a run, of the table or the user's own; images (n, 3, height, width) to scores (n, classes).

    Raises:
        SettingsError: the user's own cannot be made, or cannot be trained here.
    """
    if settings.own:
        return build_own(settings, image_size, seed, dtype, torch.device(device))
    model = build_model(settings.name, settings.classes, seed, dtype, settings.zero_last_gamma)
    return model.to(device, memory_format=torch.channels_last)


def build_model(
    name: str, classes: int, seed: int = 0, dtype: torch.dtype = torch.float32, zero_last_gamma: bool = True
) -> nn.Module:
    """A network of the table with the paper's initial values; images (n, 3, height, width) to scores (n, classes).

    Parameter names and shapes are torchvision's.

    Raises:
        KeyError: no such name in ``hvd_imagenet.models.spec.RESNETS``.
    """
    spec = RESNETS[name]
    model = TorchResNet(spec, classes).to(dtype)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter, value in initial_parameters(spec, classes, seed, zero_last_gamma):
            parameters[parameter].copy_(torch.from_numpy(value))
    return model


class TorchResNet(nn.Module):
    """Stem, residual stages, global average pooling and classifier."""

    def __init__(self, spec: ResNet, classes: int):
        super().__init__()
        stem = spec.stem()
        self.conv1, self.bn1 = _conv(stem), _norm(stem)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if spec.large_stem else nn.Identity()
        self.stages = []
        for block in spec.blocks():
            stage = block.name.split(".")[0]
            if not hasattr(self, stage):
                self.add_module(stage, nn.Sequential())
                self.stages.append(stage)
            getattr(self, stage).append(_ResidualBlock(block))
        self.fc = nn.Linear(spec.features, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(images)), inplace=True))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(x.mean((2, 3)))


class _ResidualBlock(nn.Module):
    """relu(path(x) + shortcut(x)); layers named as in torchvision."""

    def __init__(self, block: Block):
        super().__init__()
        self.depth = len(block.path)
        for index, layer in enumerate(block.path, 1):
            self.add_module(f"conv{index}", _conv(layer))
            self.add_module(f"bn{index}", _norm(layer))
        self.downsample = nn.Sequential(_conv(block.shortcut), _norm(block.shortcut)) if block.shortcut else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self.depth + 1):
            x = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(x))
            if index < self.depth:
                x = F.relu(x, inplace=True)
        return F.relu(x + shortcut, inplace=True)


def _conv(layer: ConvNorm) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel, layer.stride, padding=layer.kernel // 2, bias=False
    )


def _norm(layer: ConvNorm) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(layer.out_channels, eps=BN_EPSILON, momentum=BN_MOMENTUM)
