"""Keras variables under neutral names and in neutral layouts, which are torchvision's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# By type of layer: what its variables are called, and the order of their axes that makes them PyTorch's.
NEUTRAL = {
    layers.Conv2D: {"kernel": ("weight", (3, 2, 0, 1))},
    layers.Dense: {"kernel": ("weight", (1, 0))},
    layers.BatchNormalization: {"gamma": ("weight", None), "beta": ("bias", None)},
}


@dataclass(frozen=True)
class Parameter:
    """A variable of a network, or another of the same shape such as its velocity, seen as PyTorch would have it.

    Attributes:
        variable: as Keras has it.
        axes: the order of its axes that makes it neutral; None: it is.
    """

    variable: tf.Variable
    axes: tuple[int, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The neutral shape."""
        shape = tuple(self.variable.shape)
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)

    def numpy(self) -> np.ndarray:
        """A copy of the value."""
        value = self.variable.numpy()
        return np.array(value if self.axes is None else value.transpose(self.axes), order="C")

    def assign(self, value: np.ndarray) -> None:
        """Take over a value."""
        self.variable.assign(value if self.axes is None else value.transpose(np.argsort(self.axes)))

    def of(self, variable: tf.Variable) -> Parameter:
        """Another variable of the same layout."""
        return Parameter(variable, self.axes)


def named_parameters(model: keras.Model) -> dict[str, Parameter]:
    """What training changes, by neutral name."""
    return {name: p for name, variable, p in _named(model) if variable.trainable}


def layers_of(model: keras.Model, kind: type[keras.Layer]) -> Iterator[tuple[str, keras.Layer]]:
    """Neutral name of each layer of a type, and the layer; those inside of other layers, too."""
    for layer in model._flatten_layers():
        if isinstance(layer, kind):
            yield (layer.path or layer.name).removeprefix(f"{model.name}/").replace("/", "."), layer


def _named(model: keras.Model) -> Iterator[tuple[str, keras.Variable, Parameter]]:
    for path, layer in layers_of(model, keras.Layer):
        neutral = next((names for kind, names in NEUTRAL.items() if isinstance(layer, kind)), {})
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            name, axes = neutral.get(variable.name, (variable.name, None))
            yield f"{path}.{name}", variable, Parameter(variable.value, axes)
