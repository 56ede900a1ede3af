"""A distributed optimizer for plain `model.compile` and `model.fit`, correct under Keras 3."""

from __future__ import annotations

from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf
from keras import optimizers
from keras.saving import deserialize_keras_object, register_keras_serializable, serialize_keras_object

from hvd_imagenet.keras.optim import sum_over_workers


@register_keras_serializable("hvd_imagenet")
class DistributedOptimizer(optimizers.Optimizer):
    """Averages gradients over all workers, and then lets another optimizer apply them.

    Under Keras 3, Horovod's own wrapper trains each worker alone, without a word: nothing calls what it overrides.
    This one is an optimizer around an optimizer, as Keras's `LossScaleOptimizer` is. Around one of these, it goes
    inside, and what is made is a `LossScaleOptimizer`: around anything else, `compile` may put a second one.

    All workers must come to the same number of batches. Compile with ``jit_compile=False``: Horovod's operations do not
    compile under XLA.

    Where the inner optimizer is to accumulate gradients, this one does so instead: gradients are averaged over
    `gradient_accumulation_steps` batches of each worker, and over the workers once for all of them.

    Args:
        inner_optimizer: any Keras optimizer.
        gradient_accumulation_steps: batches of each worker that make one update; None: as the inner optimizer has it.

    Raises:
        ValueError: the gradients would be averaged twice, or not at all; no such number of batches.
    """

    def __new__(cls, inner_optimizer: optimizers.Optimizer | None = None, *rest, **options):
        if not isinstance(inner_optimizer, optimizers.LossScaleOptimizer):
            return super().__new__(cls)
        scaling = inner_optimizer.get_config()
        distributed = cls(inner_optimizer.inner_optimizer, *rest, **options)
        return optimizers.LossScaleOptimizer(**{**scaling, "inner_optimizer": distributed})

    def __init__(
        self,
        inner_optimizer: optimizers.Optimizer,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ):
        _require_not_distributed(type(self), inner_optimizer)
        if gradient_accumulation_steps is not None and gradient_accumulation_steps < 1:
            raise ValueError(f"gradient_accumulation_steps: {gradient_accumulation_steps}; give 1 or more")
        super().__init__(learning_rate=0.0, name=name)
        hvd.init()
        self.inner_optimizer = inner_optimizer
        self.batches_per_update = gradient_accumulation_steps or inner_optimizer.gradient_accumulation_steps or 1
        inner_optimizer.gradient_accumulation_steps = None  # done here, before the exchange

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        self.inner_optimizer.build(variables)
        if self.batches_per_update > 1:
            self._batch = self.add_variable((), dtype="int32", name="batch")
            self._sums = [self.add_variable_from_reference(variable, name="sum") for variable in variables]
        super().build(variables)

    @property
    def variables(self) -> list[keras.Variable]:
        return self._variables + self.inner_optimizer.variables

    def apply(self, grads: list[Any], trainable_variables: list[keras.Variable] | None = None) -> None:
        variables = list(trainable_variables or self._trainable_variables)
        with tf.name_scope(self.name):
            self.build(variables)
            gradients = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in grads]
            if self.batches_per_update == 1:
                self._update(gradients, variables)
            else:
                self._accumulate(gradients, variables)

    def _accumulate(self, gradients: list[tf.Tensor | None], variables: list[keras.Variable]) -> None:
        sums = [self._sums[self._get_variable_index(variable)].value for variable in variables]
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(gradient)
        self._batch.assign((self._batch + 1) % self.batches_per_update)

        def update():
            means = [total / self.batches_per_update for total in sums]
            self._update([mean if g is not None else None for mean, g in zip(means, gradients, strict=True)], variables)
            for total in sums:
                total.assign(tf.zeros_like(total))

        # The same on all workers, which count the same batches: all of them come to the exchange.
        tf.cond(tf.equal(self._batch.value, 0), update, lambda: None)

    def _update(self, gradients: list[tf.Tensor | None], variables: list[keras.Variable]) -> None:
        means = [
            None if gradient is None else sum_over_workers(gradient, f"{self.name}.{i}") / hvd.size()
            for i, gradient in enumerate(gradients)
        ]
        self.inner_optimizer.apply(means, variables)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        return self.inner_optimizer.scale_loss(loss)

    @property
    def loss_scale_factor(self) -> float | None:
        """The inner optimizer's; a `LossScaleOptimizer` around this one takes it away."""
        return self.inner_optimizer.loss_scale_factor if hasattr(self, "inner_optimizer") else None

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        if hasattr(self, "inner_optimizer"):  # not yet, where Keras's own __init__ sets it
            self.inner_optimizer.loss_scale_factor = factor

    def exclude_from_weight_decay(self, *variables, **names) -> None:
        self.inner_optimizer.exclude_from_weight_decay(*variables, **names)

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        inner = serialize_keras_object(self.inner_optimizer)
        steps = self.batches_per_update
        return {"name": self.name, "inner_optimizer": inner, "gradient_accumulation_steps": steps}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> DistributedOptimizer:
        inner = deserialize_keras_object(config["inner_optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "inner_optimizer": inner})


def unwrapped(optimizer: optimizers.Optimizer) -> optimizers.Optimizer:
    """The optimizer inside of all that only passes gradients on."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _require_not_distributed(mine: type, inner: optimizers.Optimizer) -> None:
    remedy = "gradients would be averaged twice: wrap the plain optimizer, once"
    if hasattr(mine, "_allreduce"):
        raise ValueError(f"Horovod's own DistributedOptimizer around that of hvd_imagenet; {remedy}")
    layer = inner
    while layer is not None:
        if isinstance(layer, DistributedOptimizer):
            raise ValueError(f"DistributedOptimizer: around another of its kind; {remedy}")
        if hasattr(layer, "_allreduce"):
            raise ValueError(f"DistributedOptimizer: around Horovod's own, which does nothing under Keras 3; {remedy}")
        layer = getattr(layer, "inner_optimizer", None)


_check_finite_here = optimizers.LossScaleOptimizer.check_finite


def _check_finite_everywhere(optimizer: optimizers.LossScaleOptimizer, grads: list[Any]) -> tf.Tensor:
    """Whether gradients are finite; around a `DistributedOptimizer`, whether they are so on all workers.

    Keras asks before the exchange, and a worker that skipped it alone would be waited for by all others for ever.
    """
    finite = _check_finite_here(optimizer, grads)
    if not isinstance(optimizer.inner_optimizer, DistributedOptimizer):
        return finite
    return hvd.allreduce(tf.cast(finite, tf.int32), name=f"{optimizer.name}.finite", op=hvd.Sum) == hvd.size()


# In Keras's own class, since Keras itself puts one around the optimizer of a model with the policy mixed_float16.
optimizers.LossScaleOptimizer.check_finite = _check_finite_everywhere
