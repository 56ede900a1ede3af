"""What keeps the workers of a plain Keras training loop together: the same variables, and metrics over all of them."""

from __future__ import annotations

import horovod.tensorflow as hvd
import keras
import tensorflow as tf
from keras.layers import BatchNormalization

from hvd_imagenet.keras.names import layers_of


class BroadcastCallback(keras.callbacks.Callback):
    """Gives all workers the same weights: worker 0's of model and optimizer at the beginning of the training.

    Seeds stay each worker's own, so that dropout and augmentation differ. Moving statistics of batch normalisation, of
    which each worker keeps its own, are averaged over the workers after the last batch of each epoch. Give it first of
    all callbacks, so that others begin with what worker 0 has, and save what is averaged.

    Raises:
        ValueError: the model is compiled with XLA, which cannot compile Horovod's operations, or is not built; or the
            workers' epochs have different numbers of batches, of which the last would be waited for in vain.
    """

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if model.jit_compile:
            raise ValueError(
                "BroadcastCallback: Horovod's operations do not compile under XLA; call compile with jit_compile=False"
            )

    def on_train_begin(self, logs=None) -> None:
        hvd.init()
        if not self.model.built:
            raise ValueError(
                "BroadcastCallback: the model has no weights yet that could be equal; begin it with a keras.Input, or "
                "call its build"
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._require_same_number_of_batches()
        for i, variable in enumerate(self.model.weights + self.model.optimizer.variables):
            variable.assign(hvd.broadcast(variable.value, 0, name=f"broadcast.{i}"))

    def _require_same_number_of_batches(self) -> None:
        batches = hvd.allgather_object(self.params.get("steps"), name="batches")
        if len(set(batches)) > 1:
            raise ValueError(
                f"BroadcastCallback: an epoch of fit is {', '.join(map(str, batches))} batches on workers 0, 1, ...; "
                "they wait for each other at each: give all of them equally many samples, or steps_per_epoch"
            )

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        if batch + 1 == self.params.get("steps"):  # before validation, which only some workers may do
            self._average_statistics()

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        self._average_statistics()

    def _average_statistics(self) -> None:
        statistics = [
            variable
            for _, layer in layers_of(self.model, BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        for i, variable in enumerate(statistics):
            variable.assign(hvd.allreduce(variable.value, name=f"statistics.{i}", op=hvd.Average))


class MetricAverageCallback(keras.callbacks.Callback):
    """Puts metrics over the samples of all workers in place of each worker's own in the logs of `fit`'s epochs.

    What metrics count, such as right answers and samples, is summed over the workers; the result is then worked out
    once. So a worker with fewer samples weighs less: these are no means of means. Give it before callbacks that read
    logs. Either all workers validate, or none.
    """

    def __init__(self):
        super().__init__()
        self._in_epoch = False
        self._training: dict[str, float] | None = None
        self._validation: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        self._in_epoch, self._training, self._validation = True, None, {}

    def on_test_begin(self, logs=None) -> None:
        if self._in_epoch:  # what the metrics have counted in training is about to be cleared
            self._training = self._over_all_workers()

    def on_test_end(self, logs=None) -> None:
        if self._in_epoch:
            self._validation = {f"val_{name}": value for name, value in self._over_all_workers().items()}

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        results = self._training or self._over_all_workers()
        self._in_epoch = False
        if logs is not None:
            logs.update(results | self._validation)

    def _over_all_workers(self) -> dict[str, float]:
        hvd.init()
        variables = self.model.metrics_variables
        own = [tf.identity(variable.value) for variable in variables]
        for i, variable in enumerate(variables):
            variable.assign(hvd.allreduce(variable.value, name=f"metric.{i}", op=hvd.Sum))
        results = {name: float(value) for name, value in self.model.get_metrics_result().items()}
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)
        return results
