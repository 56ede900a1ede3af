"""The table of networks, and the networks built from it in PyTorch."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hvd_imagenet.models.initial import initial_parameters
from hvd_imagenet.models.spec import RESNETS
from hvd_imagenet.torch.model import build_model


def resnet50_parameters():
    """torchvision's resnet50, written out: names and shapes of its 161 parameters."""
    yield from [("conv1.weight", (64, 3, 7, 7)), ("bn1.weight", (64,)), ("bn1.bias", (64,))]
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            for index, (ins, outs, kernel) in enumerate(
                [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)], 1
            ):
                yield f"{prefix}.conv{index}.weight", (outs, ins, kernel, kernel)
                yield f"{prefix}.bn{index}.weight", (outs,)
                yield f"{prefix}.bn{index}.bias", (outs,)
            if block == 0:
                yield f"{prefix}.downsample.0.weight", (4 * width, channels, 1, 1)
                yield f"{prefix}.downsample.1.weight", (4 * width,)
                yield f"{prefix}.downsample.1.bias", (4 * width,)
            channels = 4 * width
    yield from [("fc.weight", (1000, 2048)), ("fc.bias", (1000,))]


def test_resnet50_has_torchvisions_parameters():
    expected = list(resnet50_parameters())
    found = [(name, tuple(p.shape)) for name, p in build_model("resnet50", 1000).named_parameters()]
    assert len(found) == 161
    assert sum(math.prod(shape) for _, shape in found) == 25_557_032
    assert found == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # torchvision's published counts for the ImageNet family.
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_imagenet_networks_have_torchvisions_size(name, values):
    assert sum(value.size for _, value in initial_parameters(RESNETS[name], 1000, 0)) == values


def test_resnet20_by_hand():
    """Stem 3*16*9; stages of 3 blocks; a 1x1 shortcut into stages 2 and 3; gamma and beta each; 64 * 10 + 10."""
    convs = 3 * 16 * 9 + 6 * 16 * 16 * 9
    convs += (16 * 32 + 5 * 32 * 32) * 9 + 16 * 32 + (32 * 64 + 5 * 64 * 64) * 9 + 32 * 64
    norms = 2 * (7 * 16 + 7 * 32 + 7 * 64)
    assert sum(value.size for _, value in initial_parameters(RESNETS["resnet20"], 10, 0)) == convs + norms + 650


@pytest.mark.parametrize(("name", "depth"), [("resnet8", 8), ("resnet20", 20), ("resnet32", 32), ("resnet56", 56)])
def test_depth_counts_convolutions_and_classifier(name, depth):
    layers = [layer for layer, _ in RESNETS[name].conv_norms() if ".downsample" not in layer.conv]
    assert len(layers) + 1 == depth


@pytest.mark.parametrize("name", RESNETS)
def test_strides(name):
    spec = RESNETS[name]
    for block in spec.blocks():
        strides = [(layer.kernel, layer.stride) for layer in block.path]
        changes = block.name.endswith(".0") and not block.name.startswith("layer1")
        stride = 2 if changes else 1
        expected = [(1, 1), (3, stride), (1, 1)] if spec.kind == "bottleneck" else [(3, stride), (3, 1)]
        assert strides == expected  # on the 3x3 of a bottleneck, not on its first 1x1 (section 5.1)


def test_initial_values():
    values = dict(initial_parameters(RESNETS["resnet50"], 1000, 0))
    # He: standard deviation sqrt(2 / (3 * 3 * 512)) = 0.020833 for a 3x3 to 512 channels.
    conv = values["layer4.1.conv2.weight"]
    assert conv.dtype == np.float64
    assert conv.std() == pytest.approx(0.0208333, rel=0.003) and abs(conv.mean()) < 1e-4
    assert values["fc.weight"].std() == pytest.approx(0.01, rel=0.003)
    assert not values["fc.bias"].any()
    for name, value in values.items():
        if ".bn3.weight" in name:
            assert (value == 0).all()  # the last of each block's path
        elif value.ndim == 1 and name.endswith("weight"):
            assert (value == 1).all()  # shortcuts included
    basic = dict(initial_parameters(RESNETS["resnet18"], 1000, 0))
    assert (basic["layer1.0.bn2.weight"] == 0).all() and (basic["layer1.0.bn1.weight"] == 1).all()


def test_initial_values_depend_on_seed_and_name_alone():
    one, other = (dict(initial_parameters(RESNETS[name], 10, 5)) for name in ("resnet8", "resnet20"))
    assert np.array_equal(one["layer2.0.conv1.weight"], other["layer2.0.conv1.weight"])
    assert not np.array_equal(one["layer2.0.conv1.weight"].ravel()[:9], one["layer3.0.conv1.weight"].ravel()[:9])
    changed = dict(initial_parameters(RESNETS["resnet8"], 10, 6))
    assert not np.array_equal(one["fc.weight"], changed["fc.weight"])


@pytest.mark.parametrize(("name", "size", "grid"), [("resnet18", 64, 2), ("resnet50", 64, 2), ("resnet8", 28, 7)])
def test_forward_shapes(name, size, grid):
    model = build_model(name, 7).eval()
    shapes = []
    model.get_submodule(model.stages[-1]).register_forward_hook(lambda *args: shapes.append(args[-1].shape[-2:]))
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert shapes == [(grid, grid)]


def test_resnet8_by_functions():
    """The network against the same written out in functions, in float64, batch normalisation in training."""
    model = build_model("resnet8", 10, seed=3).double().train()
    weights = {name: torch.randn_like(p) if p.dim() == 1 else p for name, p in model.named_parameters()}
    torch.nn.Module.load_state_dict(model, weights, strict=False)
    images = torch.randn(4, 3, 12, 12, dtype=torch.float64)

    def norm(x, name):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
        shape = (1, -1, 1, 1)
        return (x - mean) / (var + 1e-5).sqrt() * weights[f"{name}.weight"].view(shape) + weights[f"{name}.bias"].view(
            shape
        )

    x = F.relu(norm(F.conv2d(images, weights["conv1.weight"], padding=1), "bn1"))
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        prefix = f"layer{stage}.0"
        y = F.relu(norm(F.conv2d(x, weights[f"{prefix}.conv1.weight"], stride=stride, padding=1), f"{prefix}.bn1"))
        y = norm(F.conv2d(y, weights[f"{prefix}.conv2.weight"], padding=1), f"{prefix}.bn2")
        if stride == 2:
            x = norm(F.conv2d(x, weights[f"{prefix}.downsample.0.weight"], stride=2), f"{prefix}.downsample.1")
        x = F.relu(x + y)
    expected = x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    assert torch.allclose(model(images), expected, rtol=1e-9, atol=1e-9)
