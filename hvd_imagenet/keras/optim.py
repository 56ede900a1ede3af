"""SGD as the paper has it, and the sum of gradients over the workers."""

from __future__ import annotations

import horovod.tensorflow as hvd
import keras
import tensorflow as tf
from keras.layers import BatchNormalization

from hvd_imagenet.buckets import FP16_SCALE, buckets
from hvd_imagenet.config import AllreduceSettings, OptimizerSettings
from hvd_imagenet.keras.names import layers_of, trainable_parameters


def undecayed(model: keras.Model) -> set[int]:
    """Ids of the variables without weight decay: gamma and beta of batch normalisation (section 5.1)."""
    norms = [layer for _, layer in layers_of(model, BatchNormalization)]
    return {id(variable.value) for layer in norms for variable in layer.trainable_variables}


class SGD:
    """SGD with coupled weight decay, whose velocity u does not absorb the learning rate.

    u <- m u + (g + lambda w); w <- w - eta u. No momentum correction is needed (section 3, remark 2), and the decay is
    added to the aggregated gradient (remark 1). Keras's own is not used: its velocity absorbs the learning rate, its
    momentum is a constant of the traced step, and its weight decay is not coupled.

    Attributes:
        velocities: u of each of the model's trainable parameters, in their order.
    """

    def __init__(self, model: keras.Model, settings: OptimizerSettings):
        spared = undecayed(model)
        self._variables = [parameter.variable for parameter in trainable_parameters(model).values()]
        self._decays = [0.0 if id(v) in spared else settings.weight_decay for v in self._variables]
        self._momentum = settings.momentum
        self._nesterov = settings.nesterov
        self.velocities = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self._variables]

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Take a step."""
        for gradient, variable, velocity, decay in zip(
            gradients, self._variables, self.velocities, self._decays, strict=True
        ):
            gradient = gradient + decay * variable if decay else gradient
            u = velocity.assign(self._momentum * velocity + gradient)
            variable.assign_sub(learning_rate * (gradient + self._momentum * u if self._nesterov else u))


def sum_over_workers(tensor: tf.Tensor, name: str) -> tf.Tensor:
    """A tensor summed over the workers, from the moment that it is ready, while backward goes on (section 4).

    A worker alone has its sum, and does not wait for the next cycle of Horovod to find that out.
    """
    return tensor if hvd.size() == 1 else hvd.allreduce(tensor, name=name, op=hvd.Sum)


def sum_in_buckets(gradients: list[tf.Tensor], settings: AllreduceSettings) -> list[tf.Tensor]:
    """Gradients, in the order of the network, summed over the workers, each bucket from the moment it is full.

    Args:
        settings: what is summed in one go, and in how many bits.
    """
    if hvd.size() == 1:
        return gradients
    sum_of = _compressed_sum if settings.compression == "fp16" else sum_over_workers
    backward = gradients[::-1]
    sizes = [gradient.shape.num_elements() for gradient in backward]
    in_bytes = [size * gradient.dtype.size for size, gradient in zip(sizes, backward, strict=True)]
    summed: list[tf.Tensor] = []
    for number, part in enumerate(buckets(in_bytes, settings.bucket_mib)):
        together = tf.concat([tf.reshape(backward[i], [-1]) for i in part], 0)
        pieces = tf.split(sum_of(together, f"gradients.{number}"), [sizes[i] for i in part])
        summed += [tf.reshape(piece, backward[i].shape) for piece, i in zip(pieces, part, strict=True)]
    return summed[::-1]


def _compressed_sum(tensor: tf.Tensor, name: str) -> tf.Tensor:
    """See `sum_over_workers`; travels in 16 bits."""
    summed = sum_over_workers(tf.cast(tensor * FP16_SCALE, tf.float16), name)
    return tf.cast(summed, tensor.dtype) / FP16_SCALE


def seconds_between(gradients: list[tf.Tensor], summed: list[tf.Tensor]) -> tf.Tensor:
    """Seconds from the moment that the last of a worker's gradients is ready to that of the last sum; float64."""
    if hvd.size() == 1:
        return tf.zeros([], tf.float64)
    # Grouped: one edge to the clock, which is on the host, from each device, not from each gradient.
    with tf.control_dependencies([tf.group(*gradients)]):
        ready = tf.timestamp()
    with tf.control_dependencies([tf.group(*summed), ready]):
        return tf.timestamp() - ready
