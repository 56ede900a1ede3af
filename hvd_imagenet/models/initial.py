"""Initial parameters, drawn in numpy so that both frameworks start from equal values (section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from hvd_imagenet.models.spec import ResNet
from hvd_imagenet.stream import philox

CLASSIFIER_STD = 0.01


def _gaussian(seed: int, name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    return std * philox.normal(seed, f"initial/{name}", math.prod(shape)).reshape(shape)


def initial_parameters(
    spec: ResNet, classes: int, seed: int, zero_last_gamma: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """Neutral name and initial value, float64, of every parameter.

    Convolutions (OIHW): He et al. 2015, normal with variance 2 / fan-out. Classifier: normal with standard
    deviation 0.01, bias 0. Batch normalisation: gamma 1, beta 0, and unless told otherwise gamma 0 in the last norm of
    each residual block, so that a block starts as the identity. A value depends on the seed and its own name alone.
    """
    for layer, ends_path in spec.conv_norms():
        shape = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        fan_out = layer.out_channels * layer.kernel**2
        yield f"{layer.conv}.weight", _gaussian(seed, f"{layer.conv}.weight", shape, math.sqrt(2 / fan_out))
        yield f"{layer.norm}.weight", np.full(layer.out_channels, 0.0 if ends_path and zero_last_gamma else 1.0)
        yield f"{layer.norm}.bias", np.zeros(layer.out_channels)
    yield "fc.weight", _gaussian(seed, "fc.weight", (classes, spec.features), CLASSIFIER_STD)
    yield "fc.bias", np.zeros(classes)
