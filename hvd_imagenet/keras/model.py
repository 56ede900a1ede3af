"""The networks in Keras: the residual ones, built from the table, or the user's own."""

from __future__ import annotations

import keras
from keras import layers

from hvd_imagenet.config import ModelSettings
from hvd_imagenet.keras.names import named_parameters
from hvd_imagenet.keras.own import build_own
from hvd_imagenet.models.initial import initial_parameters
from hvd_imagenet.models.spec import BN_EPSILON, BN_MOMENTUM, RESNETS, Block, ConvNorm, ResNet


def build(settings: ModelSettings, image_size: int, seed: int = 0) -> keras.Model:
    """The network of a run, of the table or the user's own; images (n, height, width, 3) to scores (n, classes).

    Raises:
        SettingsError: the user's own cannot be made, or cannot be trained here.
    """
    if settings.own:
        return build_own(settings, image_size, seed)
    return build_model(settings.name, settings.classes, seed, settings.zero_last_gamma)


def build_model(name: str, classes: int, seed: int = 0, zero_last_gamma: bool = True) -> keras.Model:
    """A network of the table with the paper's initial values; images (n, height, width, 3) to scores (n, classes).

    Layers have the neutral names of torchvision's modules, as ``hvd_imagenet.keras.names`` reads them.

    Raises:
        KeyError: no such name in ``hvd_imagenet.models.spec.RESNETS``.
    """
    spec = RESNETS[name]
    model = _network(spec, classes)
    parameters = named_parameters(model)
    for parameter, value in initial_parameters(spec, classes, seed, zero_last_gamma):
        parameters[parameter].assign(value)
    return model


def _network(spec: ResNet, classes: int) -> keras.Model:
    """Stem, residual stages, global average pooling and classifier."""
    images = keras.Input((None, None, 3), name="images")
    x = layers.ReLU()(_conv_norm(spec.stem(), images))
    if spec.large_stem:
        # Keras's own padding for a stride of 2 is asymmetric; and no image may be lower than the border.
        x = layers.ZeroPadding2D(1)(x)  # of values that a ReLU has made: 0 is as good as minus infinity
        x = layers.MaxPooling2D(3, strides=2)(x)
    for block in spec.blocks():
        x = _residual_block(block, x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="fc")(x), name=spec.name)


def _residual_block(block: Block, x):
    """relu(path(x) + shortcut(x)); layers named as in torchvision."""
    shortcut = x if block.shortcut is None else _conv_norm(block.shortcut, x)
    for layer in block.path:
        x = _conv_norm(layer, x)
        if layer is not block.path[-1]:
            x = layers.ReLU()(x)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _conv_norm(layer: ConvNorm, x):
    """A convolution, padded as in PyTorch, and its batch normalisation."""
    padding = "valid"
    if layer.kernel > 1 and layer.stride == 1:
        padding = "same"  # here the same on all sides
    elif layer.kernel > 1:
        x = layers.ZeroPadding2D(layer.kernel // 2)(x)
    convolution = layers.Conv2D(
        layer.out_channels, layer.kernel, layer.stride, padding=padding, use_bias=False, name=layer.conv
    )
    return layers.BatchNormalization(momentum=1 - BN_MOMENTUM, epsilon=BN_EPSILON, name=layer.norm)(convolution(x))
