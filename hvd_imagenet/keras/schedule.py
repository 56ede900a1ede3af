"""The learning rate of a plain Keras training loop, from the policy."""

from __future__ import annotations

import keras
import tensorflow as tf

from hvd_imagenet.keras.distributed import DistributedOptimizer, unwrapped
from hvd_imagenet.policy import LargeBatchPolicy


class LargeBatchCallback(keras.callbacks.Callback):
    """Sets the learning rate before every update: linear scaling, gradual warmup and the schedule (sections 2, 3.1).

    Where the optimizer has a velocity that absorbs the learning rate, as those of Keras's SGD and RMSprop do, it is
    multiplied by the ratio of new to old rate whenever the rate changes: momentum correction (section 3, remark 2).

    The policy's batch size must be what an update takes in truth: the batch size of `fit` times the number of
    workers, times the gradient accumulation; an epoch's last batch, where it is short, counts like the others. A run
    that goes on counts from the optimizer's own `iterations`, which leave out updates that a loss scale has skipped.

    Args:
        policy: its batch size is the same all along.

    Raises:
        ValueError: the batch size changes along the run, which `fit` cannot do.
    """

    def __init__(self, policy: LargeBatchPolicy):
        super().__init__()
        self.policy = policy
        self.global_batch = policy.global_batch(0)
        if any(plan.global_batch != self.global_batch for pair in policy.stretches() for plan in pair):
            raise ValueError(
                "LargeBatchCallback: batch.global_size or batch.grow changes the batch size along the run, which "
                "model.fit cannot do; give one size"
            )

    def on_train_begin(self, logs=None) -> None:
        optimizer = self.model.optimizer
        if self.model.steps_per_execution > 1:
            raise ValueError("LargeBatchCallback: compile with steps_per_execution=1, or rates come in bundles")
        self._optimizer = unwrapped(optimizer)
        self._batches_per_update = _batches_per_update(optimizer)
        self._batch = int(self._optimizer.iterations) * self._batches_per_update
        self._rate = None

    def on_train_batch_begin(self, batch: int, logs=None) -> None:
        update, within = divmod(self._batch, self._batches_per_update)
        self._batch += 1
        if within:
            return
        rate = self.policy.learning_rate(update * self.global_batch)
        before = self._rate
        if before is None:  # where a run goes on: what its last update before this one was taken with
            before = self.policy.learning_rate(max(0, update - 1) * self.global_batch)
        self._optimizer.learning_rate = rate
        if rate != before and before:
            for velocity in velocities(self._optimizer):
                velocity.assign(velocity * tf.cast(rate / before, velocity.dtype))
        self._rate = rate

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self._rate


def velocities(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that absorb the learning rate: moving sums of steps, not of gradients, as Adam's and Muon's are."""
    if not isinstance(optimizer, (keras.optimizers.SGD, keras.optimizers.RMSprop)) or not optimizer.momentum:
        return []
    slots = optimizer.momentums if isinstance(optimizer, keras.optimizers.SGD) else optimizer._momentums
    return [slot for slot in slots if slot is not None]


def _batches_per_update(optimizer: keras.optimizers.Optimizer) -> int:
    while hasattr(optimizer, "inner_optimizer"):
        if isinstance(optimizer, DistributedOptimizer):
            return optimizer.batches_per_update
        optimizer = optimizer.inner_optimizer
    return optimizer.gradient_accumulation_steps or 1
