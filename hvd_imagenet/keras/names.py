"""Keras variables under neutral names and in neutral layouts, which are torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# By type of layer: what its variables are called, and the order of their axes that makes them PyTorch's.
NEUTRAL = {
    layers.Conv2D: {"kernel": ("weight", (3, 2, 0, 1))},
    layers.Dense: {"kernel": ("weight", (1, 0))},
    layers.BatchNormalization: {
        "gamma": ("weight", None),
        "beta": ("bias", None),
        "moving_mean": ("running_mean", None),
        "moving_variance": ("running_var", None),
    },
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
    """What training changes, or would if it were not frozen, by neutral name."""
    return _named(model, lambda layer: layer._trainable_variables)


def trainable_parameters(model: keras.Model) -> dict[str, Parameter]:
    """What training changes, by neutral name."""
    learned = {id(variable.value) for variable in model.trainable_variables}
    return {name: parameter for name, parameter in named_parameters(model).items() if id(parameter.variable) in learned}


def named_buffers(model: keras.Model) -> dict[str, Parameter]:
    """What layers keep beside their parameters, such as moving averages, by neutral name; not where chance stands."""
    return _named(model, lambda layer: layer._non_trainable_variables)


def layers_of(model: keras.Model, kind: type[keras.Layer]) -> Iterator[tuple[str, keras.Layer]]:
    """Neutral name of each layer of a type, and the layer; those inside of other layers, too."""
    taken: set[str] = set()
    for layer in model._flatten_layers():
        name = _free((layer.path or layer.name).removeprefix(f"{model.name}/").replace("/", "."), taken)
        if isinstance(layer, kind):
            yield name, layer


def _named(model: keras.Model, variables_of: Callable[[keras.Layer], list[keras.Variable]]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    seen: set[int] = set()  # two layers may share a variable: it goes by the name that the first gives it
    for path, layer in layers_of(model, keras.Layer):
        neutral = next((names for kind, names in NEUTRAL.items() if isinstance(layer, kind)), {})
        taken: set[str] = set()
        for variable in variables_of(layer):
            if id(variable.value) in seen:
                continue
            seen.add(id(variable.value))
            name, axes = neutral.get(variable.name, (variable.name, None))
            found[f"{path}.{_free(name, taken)}"] = Parameter(variable.value, axes)
    return found


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, and is now: layers inside of different models may have the same."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
