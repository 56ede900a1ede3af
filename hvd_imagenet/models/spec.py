"""The residual networks as one table both frameworks build from; names and layouts are torchvision's.

ImageNet family: He et al. 2015, with the stride on the 3x3 convolution of a bottleneck (Goyal et al., section 5.1).
CIFAR family: He et al. 2015, section 4.2, three stages of 16, 32 and 64 channels, depth 6n + 2.
Where a block changes the shape, its shortcut is a 1x1 convolution with batch normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.1  # the weight of the new statistics: the paper's running averages with momentum 0.9


@dataclass(frozen=True)
class ConvNorm:
    """A convolution without bias, padded by kernel // 2, and the batch normalisation after it."""

    conv: str
    norm: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class Block:
    """A residual block: relu(path(x) + shortcut(x)), with a relu between the path's layers.

    Attributes:
        name: prefix of its parameters, such as ``layer1.0``.
        path: its convolutions in order; the last norm's gamma starts at 0 (section 5.1).
        shortcut: what the input passes through; None: nothing.
    """

    name: str
    path: tuple[ConvNorm, ...]
    shortcut: ConvNorm | None


@dataclass(frozen=True)
class ResNet:
    """One row of the table.

    Attributes:
        name: as in ``model.name`` of a recipe.
        kind: basic: two 3x3; bottleneck: 1x1, 3x3, 1x1 with four times the channels out.
        depths: blocks in each stage.
        widths: channels of each stage.
        large_stem: 7x7 stride 2 and a 3x3 max-pooling of stride 2; otherwise one 3x3.
    """

    name: str
    kind: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    large_stem: bool

    @property
    def features(self) -> int:
        """Channels that the classifier reads."""
        return self.widths[-1] * (4 if self.kind == "bottleneck" else 1)

    @property
    def reduction(self) -> int:
        """By how much the height and width of the last stage are smaller than the image's."""
        return (4 if self.large_stem else 1) * 2 ** (len(self.depths) - 1)

    def stem(self) -> ConvNorm:
        kernel, stride = (7, 2) if self.large_stem else (3, 1)
        return ConvNorm("conv1", "bn1", 3, self.widths[0], kernel, stride)

    def blocks(self) -> Iterator[Block]:
        """The residual blocks from input to output."""
        channels = self.widths[0]
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                block = self._block(f"layer{stage + 1}.{index}", channels, width, stride)
                channels = block.path[-1].out_channels
                yield block

    def _block(self, name: str, channels: int, width: int, stride: int) -> Block:
        if self.kind == "bottleneck":
            layers = [(channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        else:
            layers = [(channels, width, 3, stride), (width, width, 3, 1)]
        path = tuple(ConvNorm(f"{name}.conv{i}", f"{name}.bn{i}", *layer) for i, layer in enumerate(layers, 1))
        out = path[-1].out_channels
        if stride == 1 and channels == out:
            return Block(name, path, None)
        shortcut = ConvNorm(f"{name}.downsample.0", f"{name}.downsample.1", channels, out, 1, stride)
        return Block(name, path, shortcut)

    def conv_norms(self) -> Iterator[tuple[ConvNorm, bool]]:
        """Every convolution with its norm, and whether that norm is the last of a block's path."""
        yield self.stem(), False
        for block in self.blocks():
            for layer in block.path:
                yield layer, layer is block.path[-1]
            if block.shortcut:
                yield block.shortcut, False


def _table() -> dict[str, ResNet]:
    imagenet = (64, 128, 256, 512)
    rows = [
        ResNet("resnet18", "basic", (2, 2, 2, 2), imagenet, True),
        ResNet("resnet34", "basic", (3, 4, 6, 3), imagenet, True),
        ResNet("resnet50", "bottleneck", (3, 4, 6, 3), imagenet, True),
        ResNet("resnet101", "bottleneck", (3, 4, 23, 3), imagenet, True),
        ResNet("resnet152", "bottleneck", (3, 8, 36, 3), imagenet, True),
    ]
    rows += [ResNet(f"resnet{6 * n + 2}", "basic", (n, n, n), (16, 32, 64), False) for n in (1, 3, 5, 7, 9)]
    return {row.name: row for row in rows}


RESNETS = _table()
