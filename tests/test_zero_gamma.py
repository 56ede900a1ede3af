"""The last gamma of every residual branch, found in any network by the types of its layers and what they add up."""

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch import nn

from hvd_imagenet.config import ModelSettings
from hvd_imagenet.keras import model as keras_models
from hvd_imagenet.keras.initial import zero_last_gamma as zero_in_keras
from hvd_imagenet.keras.model import build_model as build_in_keras
from hvd_imagenet.keras.names import named_parameters
from hvd_imagenet.models.spec import RESNETS
from hvd_imagenet.torch import model as torch_models
from hvd_imagenet.torch.initial import zero_last_gamma
from hvd_imagenet.torch.model import build_model


@pytest.mark.parametrize("name", ["resnet8", "resnet50"])
def test_what_the_table_says(name):
    last = {f"{layer.norm}.weight" for layer, ends_path in RESNETS[name].conv_norms() if ends_path}
    model = build_model(name, 4)
    gammas = {n: p for n, p in model.named_parameters() if p.ndim == 1 and n.endswith("weight")}
    for gamma in gammas.values():
        nn.init.ones_(gamma)
    assert zero_last_gamma(model) == len(last)
    assert {name for name, gamma in gammas.items() if not gamma.any()} == last

    model = build_in_keras(name, 4)
    twin = {n: p for n, p in named_parameters(model).items() if n in gammas}
    for gamma in twin.values():
        gamma.assign(np.ones(gamma.shape))
    assert zero_in_keras(model) == len(last)
    assert {name for name, gamma in twin.items() if not gamma.numpy().any()} == last


@pytest.mark.parametrize(("name", "branches"), [("ResNet50", 16), ("ResNet50V2", 0), ("MobileNetV2", 10)])
def test_networks_of_keras(name, branches):
    """Those whose blocks are activated before their convolutions have no norm to set."""
    network = getattr(keras.applications, name)(weights=None, classes=4, input_shape=(32, 32, 3))
    assert zero_in_keras(network) == branches == sum(not gamma.any() for gamma in gammas_of(network))
    assert zero_in_keras(network) == 0  # they are not 1 any more


def gammas_of(network):
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    return [norm.gamma.numpy() for norm in norms]


class StochasticDepth(nn.Module):
    """As torchvision's: a function that tracing would show, of which only the name of the layer tells what it is."""

    def forward(self, x):
        return x * torch.empty([x.shape[0], 1, 1, 1]).bernoulli_(0.5) if self.training else x


class Block(nn.Module):
    """A branch of so many convolutions, and what `added` makes of it and the input."""

    def __init__(self, added, depth=2, shortcut=0):
        super().__init__()
        self.added = added
        self.branch, self.shortcut = self.path(depth), self.path(shortcut)
        self.position = nn.Parameter(torch.zeros(3, 1, 1))
        self.dropout, self.same, self.relu, self.drop = nn.Dropout2d(), nn.Identity(), nn.ReLU(), StochasticDepth()

    def path(self, depth):
        return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))))

    def forward(self, x):
        return self.added(self, self.branch(x), self.shortcut(x))


def in_place(_, y, x):
    y += x
    return y


@pytest.mark.parametrize(
    ("block", "zeroed"),
    [
        (Block(lambda _, y, x: y + x), ["branch.3"]),
        (Block(lambda _, y, x: x + y), ["branch.3"]),
        (Block(lambda _, y, x: torch.add(x, y)), ["branch.3"]),
        (Block(lambda _, y, x: x.add_(y)), ["branch.3"]),
        (Block(in_place), ["branch.3"]),
        (Block(lambda block, y, x: block.same(block.dropout(y)) + x), ["branch.3"]),
        (Block(lambda _, y, x: y + x, shortcut=1), ["branch.3"]),
        (Block(lambda _, y, x: x + y, depth=1, shortcut=2), ["shortcut.3"]),  # whichever is the longer
        (Block(lambda _, y, x: y + x, depth=1, shortcut=1), []),  # as long: neither is a shortcut
        (Block(lambda _, y, x: y + x, depth=3, shortcut=2), []),  # two branches: no shortcut has two convolutions
        (Block(lambda block, y, x: y + block.relu(x)), ["branch.3"]),
        (Block(lambda block, y, x: block.drop(y) + x), ["branch.3"]),
        (Block(lambda block, y, x: block.relu(y) + x), []),  # not out of the norm
        (Block(lambda block, y, x: y + block.position), []),  # no branch: there is no way around it
        (Block(lambda _, y, x: y + 1), []),
        (Block(lambda _, y, x: y + y), []),
        (Block(lambda _, y, x: y * x), []),
        (Block(lambda _, y, x: y + x, depth=0, shortcut=0), []),
    ],
)
def test_branches_in_pytorch(block, zeroed):
    assert zero_last_gamma(block) == len(zeroed)
    norms = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert [name for name, norm in norms.items() if not norm.weight.any()] == zeroed


def block_in_keras(added, depth=2, shortcut=0):
    images = keras.Input((8, 8, 3))
    paths = []
    for name, length in (("branch", depth), ("shortcut", shortcut)):
        paths.append(images)
        for number in range(length):
            paths[-1] = layers.Conv2D(3, 1)(paths[-1])
            paths[-1] = layers.BatchNormalization(name=f"{name}.{number}")(paths[-1])
    return keras.Model(images, added(*paths))


def nested(y, x):
    """Two models as layers, of which one ends in a norm."""
    branch = keras.Sequential([layers.Conv2D(3, 1), layers.BatchNormalization(name="inner")])
    images = keras.Input((8, 8, 3))
    return layers.Add()([branch(y), keras.Model(images, layers.ReLU()(images))(x)])


def cell(y, x):
    """As in NASNet: branches of two convolutions each, of which one begins later and is only therefore the deeper."""
    ends = [layers.BatchNormalization()(layers.Conv2D(3, 1)(layers.Conv2D(3, 1)(begin))) for begin in (x, y)]
    return layers.Add()(ends)


@pytest.mark.parametrize(
    ("added", "lengths", "zeroed"),
    [
        (lambda y, x: layers.Add()([y, x]), (2, 0), ["branch.1"]),
        (lambda y, x: x + y, (2, 0), ["branch.1"]),
        (lambda y, x: keras.ops.add(x, y), (2, 0), ["branch.1"]),
        (lambda y, x: layers.Add()([x, layers.Identity()(layers.SpatialDropout2D(0.5)(y))]), (2, 0), ["branch.1"]),
        (lambda y, x: layers.Add()([x, y]), (2, 1), ["branch.1"]),
        (lambda y, x: layers.Add()([x, y]), (1, 2), ["shortcut.1"]),
        (lambda y, x: layers.Add()([x, y]), (1, 1), []),
        (lambda y, x: layers.Add()([x, y]), (3, 2), []),
        (cell, (2, 0), []),
        (nested, (1, 0), ["inner"]),
        (lambda y, x: layers.Add()([layers.ReLU()(y), x]), (2, 0), []),
        (lambda y, x: y + 1, (2, 0), []),
        (lambda y, x: y * x, (2, 0), []),
    ],
)
def test_branches_in_keras(added, lengths, zeroed):
    model = block_in_keras(added, *lengths)
    assert zero_in_keras(model) == len(zeroed)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    assert [norm.name for norm in norms if not norm.gamma.numpy().any()] == zeroed


def test_what_is_trained_or_frozen_stays():
    for change in (lambda gamma: gamma.requires_grad_(False), lambda gamma: gamma.data[1].fill_(0.9)):
        block = Block(lambda _, y, x: y + x)
        change(block.branch[3].weight)
        assert zero_last_gamma(block) == 0 and block.branch[3].weight.all()
    block = Block(lambda _, y, x: y + x)
    block.branch[3] = nn.BatchNorm2d(3, affine=False)
    assert zero_last_gamma(block) == 0

    def frozen(norm):
        norm.trainable = False

    for change in (frozen, lambda norm: norm.gamma.assign([1, 0.9, 1])):
        model = block_in_keras(lambda y, x: y + x)
        change(model.get_layer("branch.1"))
        assert zero_in_keras(model) == 0 and model.get_layer("branch.1").gamma.numpy().all()
    images = keras.Input((8, 8, 3))
    without_gamma = layers.BatchNormalization(scale=False)(layers.Conv2D(3, 1)(images))
    assert zero_in_keras(keras.Model(images, images + without_gamma)) == 0


def test_what_cannot_be_seen_into():
    block = Block(lambda _, y, x: y + x if x.sum() > 0 else y)
    with pytest.raises(ValueError, match="Block cannot be traced"):
        zero_last_gamma(block)
    assert all(norm.weight.all() for norm in block.modules() if isinstance(norm, nn.BatchNorm2d))

    class Opaque(keras.Model):
        def call(self, images):
            return images

    with pytest.raises(ValueError, match="Opaque is no graph of layers: make it a functional or sequential model"):
        zero_in_keras(Opaque())


def test_tracing_leaves_no_trace():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(lambda _, y, x: y + x)
            self.register_buffer("calls", torch.tensor(0))
            self.register_buffer("last", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            self.last = x.sum()
            return self.block(x)

    model = Counting()
    assert zero_last_gamma(model) == 1
    assert model.calls == 0 and model.last == 0 and not model.block.branch[3].weight.any()


def own_in_torch():
    """A user's own, of one block."""
    return nn.Sequential(Block(lambda _, y, x: y + x), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


def own_in_keras():
    block = block_in_keras(lambda y, x: layers.Add()([y, x]))
    return keras.Sequential([block, layers.GlobalAveragePooling2D(), layers.Dense(4)])


@pytest.mark.parametrize(("zero", "zeroed"), [(True, [3, 1]), (False, [0, 0])])
def test_it_is_a_setting(zero, zeroed):
    """Of a run's network, of the table (a block in each of three stages) or the user's own, in both frameworks."""
    table = ModelSettings("resnet8", 4, zero_last_gamma=zero)
    own = ModelSettings(f"{__name__}:own_in_torch", 4, zero_last_gamma=zero)
    found = [
        sum(isinstance(layer, nn.BatchNorm2d) and not layer.weight.any() for layer in network.modules())
        for network in (torch_models.build(settings, 8) for settings in (table, own))
    ]
    assert found == zeroed
    own = ModelSettings(f"{__name__}:own_in_keras", 4, zero_last_gamma=zero)
    found = [sum(not gamma.any() for gamma in gammas_of(keras_models.build(settings, 8))) for settings in (table, own)]
    assert found == zeroed
