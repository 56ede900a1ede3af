"""What a network has learned, and its optimizer's momentum, under neutral names."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.backend import State, require_same_shapes
from hvd_imagenet.keras.names import Parameter, named_buffers, named_parameters, trainable_parameters
from hvd_imagenet.keras.norm import StepStatistics
from hvd_imagenet.keras.optim import SGD


class NetworkState:
    """Reads and writes it, where it is.

    Args:
        model: the network; statistics: its running statistics; optimizer: its optimizer.

    Attributes:
        momentum_is_there: a step has been taken.
    """

    def __init__(self, model: keras.Model, statistics: StepStatistics, optimizer: SGD):
        self._model = model
        self._statistics = statistics
        self._optimizer = optimizer
        self._parameters = named_parameters(model)
        self._trainable = trainable_parameters(model)
        self.momentum_is_there = False

    def copy(self) -> State:
        model = {name: parameter.numpy() for name, parameter in self._parameters.items()}
        model |= {name: statistic.numpy() for name, statistic in self._statistics.named()}
        model |= {name: buffer.numpy() for name, buffer in self._buffers().items()}
        momentum = {name: slot.numpy() for name, slot in self._momentum().items()}
        return State(model, momentum if self.momentum_is_there else {})

    def load(self, state: State) -> None:
        """See `Backend.load_state`."""
        kept = {**self._parameters, **self._buffers()}
        shapes = {name: parameter.shape for name, parameter in kept.items()}
        statistics = {name: tuple(statistic.shape) for name, statistic in self._statistics.named()}
        require_same_shapes("model", {**shapes, **statistics}, state.model)
        if state.momentum:
            require_same_shapes("momentum", {name: shapes[name] for name in self._trainable}, state.momentum)
        for name, parameter in kept.items():
            parameter.assign(state.model[name])
        self._statistics.load(state.model)
        for name, slot in self._momentum().items():
            slot.assign(state.momentum[name] if state.momentum else np.zeros(slot.shape))
        self.momentum_is_there = bool(state.momentum)

    def fingerprint(self) -> dict[str, int]:
        """See `Backend.fingerprint`."""
        named = self._named()
        sums = tf.stack([_sum_of_bits(tensor) for tensor in named.values()])
        return dict(zip(named, sums.numpy().tolist(), strict=True))

    def _named(self) -> dict[str, tf.Tensor]:
        parameters = {name: parameter.variable for name, parameter in self._parameters.items()}
        return {**parameters, **dict(self._statistics.named())}

    def _buffers(self) -> dict[str, Parameter]:
        """Of a user's own layers; they may differ from worker to worker: rank 0's are saved."""
        steps = dict(self._statistics.named())
        return {name: buffer for name, buffer in named_buffers(self._model).items() if name not in steps}

    def _momentum(self) -> dict[str, Parameter]:
        slots = zip(self._trainable.items(), self._optimizer.velocities, strict=True)
        return {name: parameter.of(velocity) for (name, parameter), velocity in slots}


def _sum_of_bits(tensor: tf.Tensor) -> tf.Tensor:
    """A checksum, int64: the values' bits as integers, each times an odd number of its place, summed.

    Any one flipped bit changes it, and so does another order.
    """
    tensor = tf.reshape(tensor, [-1])
    bits = tf.cast(tf.bitcast(tensor, {4: tf.int32, 8: tf.int64}[tensor.dtype.size]), tf.int64)
    return tf.reduce_sum(bits * tf.range(1, 2 * tf.size(bits, tf.int64), 2, dtype=tf.int64))
