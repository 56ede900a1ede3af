"""What each layer of a network costs: parameters, operations, and the values that its backward needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hvd_imagenet.models.spec import Block, ConvNorm, ResNet

POOL_INDEX_BYTES = 8  # of the largest value of each window, which max-pooling remembers


@dataclass(frozen=True)
class Layer:
    """A convolution with its normalisation, or the classifier.

    Attributes:
        name: of the convolution, as in ``models.spec``, or ``fc``.
        parameters: how many it learns; norm_channels: of them gamma or beta, half each.
        forward_flops: floating-point operations of one image's forward; a backward takes twice as many.
        saved: values kept from one image's forward for its backward, but for the layer's own input.
        saved_bytes: kept beside those, whatever the precision.
    """

    name: str
    parameters: int
    norm_channels: int
    forward_flops: int
    saved: int
    saved_bytes: int = 0


def layers(spec: ResNet, classes: int, image_size: int) -> list[Layer]:
    """The layers in the order of the forward: of a block the shortcut first, then its path."""
    found, size = list(_stem(spec, image_size)), _after_stem(spec, image_size)
    for block in spec.blocks():
        found += _block(block, size)
        size = _strided(size, block.path)
    classifier = spec.features * classes
    return [*found, Layer("fc", classifier + classes, 0, 2 * classifier, spec.features)]


def parameters(costs: list[Layer]) -> int:
    """How many parameters a network learns."""
    return sum(layer.parameters for layer in costs)


def forward_flops(costs: list[Layer]) -> int:
    """Floating-point operations of one image's forward: convolutions and classifier, two to each multiply-add."""
    return sum(layer.forward_flops for layer in costs)


def training_flops(costs: list[Layer]) -> int:
    """Floating-point operations of one image's forward and backward, of which the latter has twice as many."""
    return 3 * forward_flops(costs)


def ready(costs: list[Layer]) -> Iterator[tuple[float, Layer]]:
    """The layers in the order in which a backward is done with them, and the part of it, from 0 to 1, that is over.

    The last layer comes first. A layer's part of the backward is its part of the operations.
    """
    done, whole = 0, forward_flops(costs)
    for layer in reversed(costs):
        done += layer.forward_flops
        yield done / whole, layer


def _stem(spec: ResNet, image_size: int) -> Iterator[Layer]:
    layer = spec.stem()
    side = _strided(image_size, (layer,))
    pooled = layer.out_channels * _after_stem(spec, image_size) ** 2 if spec.large_stem else 0
    yield _conv_norm(layer, side, 2 * layer.out_channels * side**2 + pooled, POOL_INDEX_BYTES * pooled)


def _after_stem(spec: ResNet, image_size: int) -> int:
    side = _strided(image_size, (spec.stem(),))
    return (side - 1) // 2 + 1 if spec.large_stem else side


def _block(block: Block, size: int) -> Iterator[Layer]:
    """What is kept: what each normalisation was given, what each ReLU gave, and so the block's own sum, too."""
    if block.shortcut:
        side = _strided(size, (block.shortcut,))
        yield _conv_norm(block.shortcut, side, block.shortcut.out_channels * side**2)
    for layer in block.path:
        size = _strided(size, (layer,))
        yield _conv_norm(layer, size, 2 * layer.out_channels * size**2)


def _conv_norm(layer: ConvNorm, side: int, saved: int, saved_bytes: int = 0) -> Layer:
    weights = layer.kernel**2 * layer.in_channels * layer.out_channels
    channels = 2 * layer.out_channels
    return Layer(layer.conv, weights + channels, channels, 2 * weights * side**2, saved, saved_bytes)


def _strided(size: int, path: tuple[ConvNorm, ...]) -> int:
    """Height and width after convolutions, which are padded by half a kernel."""
    for layer in path:
        size = (size - 1) // layer.stride + 1
    return size
