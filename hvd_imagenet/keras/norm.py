"""Batch normalisation whose running statistics are the step's, not a worker's."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.layers import BatchNormalization

from hvd_imagenet.keras.grouped import fits, take_over
from hvd_imagenet.keras.names import layers_of


class StepStatistics:
    """Takes over the running statistics of a model's batch normalisation layers.

    A layer normalises over each micro-batch alone (section 2.3). Its moving averages, by a momentum of 0, hold the
    statistics of the last forward, summed over its micro-batches. `last` takes them from the layers; their sum over a
    step's micro-batches, of all workers, divided by the number of these, updates the running statistics, each with its
    layer's own momentum: r <- (1 - a) r + a * sum / M. Averaging the workers' own running statistics instead is not the
    same once the workers' shares differ.

    Args:
        model: its layers are changed: to be made before anything is traced.
        images: shape of a micro-batch.

    Attributes:
        running: the running statistics, means and unbiased variances; shape (channels * 2,).
    """

    def __init__(self, model: keras.Model, images: tuple[int, int, int, int]):
        norms = [(name, layer) for name, layer in layers_of(model, BatchNormalization) if layer.trainable]
        shapes = _shapes_of_inputs(model, [layer for _, layer in norms], images)
        self._layers = [(name, layer) for name, layer in norms if id(layer) in shapes]
        momenta, unbiased = [], []
        for _, layer in self._layers:
            shape = shapes[id(layer)]
            channels = layer.moving_mean.shape[0]
            momenta += [1 - layer.momentum] * 2 * channels
            if fits(layer, shape):
                take_over(layer, images[0])
                unbiased += [1.0] * 2 * channels
            else:
                count = shape.num_elements() // channels
                unbiased += [1.0] * channels + [count / (count - 1)] * channels  # Keras's own variance is biased
            layer.momentum = 0.0
        dtype = keras.config.floatx()
        self._momentum = tf.constant(momenta, dtype)
        self._unbiased = tf.constant(unbiased, dtype)
        self.running = tf.Variable(self._of_layers(), trainable=False, name="running")

    def last(self) -> tf.Tensor:
        """The statistics of the last forward, summed over its micro-batches; same layout."""
        return self._of_layers() * self._unbiased

    def update(self, sums: tf.Tensor, micro_batches: tf.Tensor) -> None:
        """Take one step's sums over all its micro-batches into the running statistics."""
        self.running.assign_add(self._momentum * (sums / micro_batches - self.running))

    def use_running(self) -> None:
        """Put the running statistics into the layers, for evaluation. The next forward in training replaces them."""
        self.use(self.running)

    def use(self, statistics: tf.Tensor) -> None:
        """Put other statistics, of the same layout, into the layers, until `use_running`."""
        for (_, layer), (mean, variance) in zip(self._layers, self._views(statistics), strict=True):
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)

    def named(self) -> Iterator[tuple[str, tf.Tensor]]:
        """Neutral name and value of each running statistic."""
        for (name, _), (mean, variance) in zip(self._layers, self._views(self.running), strict=True):
            yield f"{name}.running_mean", mean
            yield f"{name}.running_var", variance

    def load(self, named: dict[str, tf.Tensor]) -> None:
        """Take over running statistics by their neutral names."""
        values = [tf.cast(named[name], self.running.dtype) for name, _ in self.named()]
        self.running.assign(tf.concat([*values, self.running[:0]], 0))  # of nothing, too

    def _of_layers(self) -> tf.Tensor:
        pairs = [variable.value for _, layer in self._layers for variable in (layer.moving_mean, layer.moving_variance)]
        return tf.concat(pairs, 0) if pairs else tf.zeros([0], keras.config.floatx())

    def _views(self, flat: tf.Tensor) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        start = 0
        for _, layer in self._layers:
            channels = layer.moving_mean.shape[0]
            yield flat[start : start + channels], flat[start + channels : start + 2 * channels]
            start += 2 * channels


def _shapes_of_inputs(
    model: keras.Model, norms: list[BatchNormalization], images: tuple[int, ...]
) -> dict[int, tf.TensorShape]:
    """By the layers' ids, what each normalises of a micro-batch; found by tracing the model once."""
    found = {}

    def recording(layer: BatchNormalization):
        call = layer.call

        def recorded(inputs, *rest, **options):
            found[id(layer)] = inputs.shape
            return call(inputs, *rest, **options)

        return recorded

    for layer in norms:
        layer.call = recording(layer)
    try:
        tf.function(lambda x: model(x, training=True)).get_concrete_function(
            tf.TensorSpec(images, keras.config.floatx())
        )
    finally:
        for layer in norms:
            del layer.call
    return found
