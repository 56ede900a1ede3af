"""The parts of a step and of an evaluation that TensorFlow traces, once, into graphs."""

from __future__ import annotations

import keras
import tensorflow as tf

from hvd_imagenet.config import Config
from hvd_imagenet.keras.names import trainable_parameters
from hvd_imagenet.keras.norm import StepStatistics
from hvd_imagenet.keras.optim import SGD, seconds_between, sum_in_buckets, sum_over_workers
from hvd_imagenet.keras.own import seed_generators
from hvd_imagenet.totals import SUMS


class StepGraph:
    """What a network does with a forward's images, and with what comes of them over a step.

    Args:
        model: the network; statistics: its running statistics; optimizer: its optimizer.
        config: micro-batch, classes and buckets.
        tail_length: of the step vector's end.

    Attributes:
        generators: how many the network draws from.
    """

    def __init__(
        self, model: keras.Model, statistics: StepStatistics, optimizer: SGD, config: Config, tail_length: int
    ):
        self._model, self._statistics, self._optimizer = model, statistics, optimizer
        self._dtype = keras.config.floatx()
        self._micro_size = config.batch.micro_size
        self._allreduce = config.allreduce
        self._best = min(5, config.model.classes)
        self._generators = seed_generators(model) if config.model.own else []  # no other network draws anything
        self.generators = len(self._generators)
        self._variables = [parameter.variable for parameter in trainable_parameters(model).values()]
        # What the forwards before a step's last have added up to.
        self._gradients = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in self._variables]
        self._tail_length = tail_length
        length = statistics.running.shape[0] + tail_length
        self._vector = tf.Variable(tf.zeros(length, self._dtype), trainable=False)
        self.accumulate = tf.function(self._accumulate, jit_compile=False)
        self.finish = tf.function(self._finish, jit_compile=False)
        self.norm_of_weights = tf.function(self._norm_of_weights, jit_compile=False)
        self.count = tf.function(self._count, jit_compile=False, reduce_retracing=True)
        self.statistics_of = tf.function(self._statistics_of, jit_compile=False)

    def forget(self) -> None:
        """Begin a step anew."""
        for total in (*self._gradients, self._vector):
            total.assign(tf.zeros_like(total))

    def _accumulate(self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
        """A forward before the last of this worker's part of the step; the mean losses of its micro-batches."""
        self._sow(seeds)
        with tf.GradientTape() as tape:
            losses, sums, _ = self._forward(images, labels, training=True)
            means = self._means(losses)
            share_of_loss = tf.reduce_sum(means) / parts
        for total, gradient in zip(self._gradients, self._gradients_of(share_of_loss, tape), strict=True):
            total.assign_add(gradient)
        self._vector.assign_add(tf.concat([self._statistics.last(), self._in_tail(sums)], 0))
        return means

    def _finish(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        seeds: tf.Tensor,
        parts: tf.Tensor,
        rate: tf.Tensor,
        tail: tf.Tensor,
        norm: tf.Tensor,
        alone: bool,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """The last forward of this worker's part, and the update.

        Traced once more where it is every worker's only one (`alone`): nothing has been added up before it.

        Returns:
            The mean losses of its micro-batches, the summed end of the step vector, the norm of the gradient if it is
            wanted, else 0, and the seconds that this worker's gradients have waited for those of the others.
        """
        self._sow(seeds)
        with tf.GradientTape() as tape:
            losses, sums, _ = self._forward(images, labels, training=True)
            means = self._means(losses)
            # Divided here, so that the sum over all workers is the mean over the step (section 3, remark 3).
            share_of_loss = tf.reduce_sum(means) / parts
        vector = tf.concat([self._statistics.last(), self._in_tail(sums) + tail], 0)
        # One all-reduce of everything a step counts, to run beside the last backward.
        vector = sum_over_workers(vector if alone else self._vector + vector, "step_vector")
        gradients = self._gradients_of(share_of_loss, tape)
        if not alone:
            gradients = [total + gradient for total, gradient in zip(self._gradients, gradients, strict=True)]
            self.forget()
        summed = sum_in_buckets(gradients, self._allreduce)
        self._optimizer.apply(summed, rate)
        of_gradient = tf.cond(norm, lambda: tf.linalg.global_norm(summed), lambda: tf.zeros([], self._dtype))
        self._statistics.update(vector[: -self._tail_length], parts)
        return means, vector[-self._tail_length :], of_gradient, seconds_between(gradients, summed)

    def _norm_of_weights(self) -> tf.Tensor:
        return tf.linalg.global_norm(self._variables)

    def _count(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of a batch in evaluation: loss, top-1, top-5 and size, summed in float64, and the best answers."""
        _, sums, best = self._forward(images, labels, training=False)
        return tf.cast(sums, tf.float64), best

    def _statistics_of(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """The statistics of a micro-batch that runs as in training, and leaves no trace in the network."""
        with keras.StatelessScope():
            self._sow(seeds)
            self._model(tf.cast(images, self._dtype), training=True)
            return self._statistics.last()

    def _sow(self, seeds: tf.Tensor) -> None:
        """Seed what the network draws from, before a forward in training."""
        for generator, seed in zip(self._generators, tf.unstack(seeds), strict=True):
            generator.state.assign([seed, 0])

    def _forward(self, images: tf.Tensor, labels: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The losses of images, their sums (loss, top-1, top-5 and size), and the best answers."""
        scores = tf.cast(self._model(tf.cast(images, self._dtype), training=training), self._dtype)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
        best = tf.math.top_k(scores, self._best).indices
        right = tf.cast(tf.cast(best, labels.dtype) == labels[:, None], self._dtype)
        samples = tf.cast(tf.size(labels), self._dtype)
        sums = [tf.reduce_sum(losses), tf.reduce_sum(right[:, 0]), tf.reduce_sum(right), samples]
        return losses, tf.stack(sums), best

    def _means(self, losses: tf.Tensor) -> tf.Tensor:
        """The mean loss of each micro-batch of a forward in training."""
        return tf.reduce_mean(tf.reshape(losses, [-1, self._micro_size]), 1)

    def _gradients_of(self, loss: tf.Tensor, tape: tf.GradientTape) -> list[tf.Tensor]:
        """Of all variables: zeros for those that the loss does not reach on this worker."""
        found = tape.gradient(loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]

    def _in_tail(self, sums: tf.Tensor) -> tf.Tensor:
        """Sums over samples, in their place at the end of the step vector."""
        return tf.pad(sums, [[0, self._tail_length - SUMS]])
