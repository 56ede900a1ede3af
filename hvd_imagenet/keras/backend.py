"""The Keras backend: one worker's part of a step and of an evaluation, and its exchange with the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.backend import Batch, InUse, NormBatches, Pulse, State, require_statistics
from hvd_imagenet.config import Config
from hvd_imagenet.cores import keep_to
from hvd_imagenet.errors import LostContactError, SettingsError
from hvd_imagenet.host import own_cores, require_own_gpus, this_place
from hvd_imagenet.joining import meet_workers, set_horovod_defaults
from hvd_imagenet.keras.device import choose_device, set_threads, tensors
from hvd_imagenet.keras.model import build
from hvd_imagenet.keras.names import trainable_parameters
from hvd_imagenet.keras.norm import StepStatistics
from hvd_imagenet.keras.optim import SGD, seconds_between, sum_over_workers
from hvd_imagenet.keras.own import seed_generators
from hvd_imagenet.keras.state import NetworkState
from hvd_imagenet.models import own
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.stream import share
from hvd_imagenet.totals import SUMS, Awaited, StepTotals, TakenSteps, Times, Totals, own_tail, step_totals, tail_length


@contextmanager
def _in_contact() -> Iterator[None]:
    """Horovod's own error as what it means."""
    try:
        yield
    except tf.errors.OpError as error:
        if "Horovod" not in str(error):
            raise
        raise LostContactError(f"lost contact with the other workers ({error.message.splitlines()[0]})") from None


class Backend:
    """See ``hvd_imagenet.backend.Backend``.

    Args:
        config: model, optimizer, precision and seed.
    """

    def __init__(self, config: Config):
        set_horovod_defaults(bool(tf.config.list_physical_devices("GPU")), config.faults.stall_seconds)
        self.pulse = Pulse()
        meet_workers(hvd)
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        threads = set_threads(self.local_size)
        self.device_id, gpu = choose_device(self.local_rank)
        places = self.gather(this_place(gpu))
        require_own_gpus(places)
        keep_to(mine := own_cores(places, self.rank))  # TensorFlow's threads, which are there by now, too
        self.cores = min(len(mine), threads)
        if config.precision == "float64" and self.device_id is not None:
            raise SettingsError("precision: float64; for tests on a CPU only: give float32 or bf16")

        self._dtype = "float64" if config.precision == "float64" else "float32"
        keras.config.set_floatx(self._dtype)
        keras.config.set_dtype_policy("mixed_bfloat16" if config.precision == "bf16" else self._dtype)
        size = config.data.image_size
        self._model = build(config.model, size, config.seed)
        self._seed = config.seed
        self._best = min(5, config.model.classes)
        self._generators = seed_generators(self._model) if config.model.own else []  # no other network draws anything
        self._statistics = StepStatistics(self._model, (config.batch.micro_size, size, size, 3))
        require_statistics(config.evaluate.precise_bn, config.model.name, self._statistics.running.shape[0])
        self._optimizer = SGD(self._model, config.optimizer)
        self._state = NetworkState(self._model, self._statistics, self._optimizer)
        self._trainable = trainable_parameters(self._model)
        self._variables = [parameter.variable for parameter in self._trainable.values()]
        # What the micro-batches before a step's last have added up to.
        self._gradients = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in self._variables]
        self._tail_length = tail_length(self.size)
        length = self._statistics.running.shape[0] + self._tail_length
        self._vector = tf.Variable(tf.zeros(length, self._dtype), trainable=False)
        self._times = Times()  # of the last step
        self._taking = 0.0  # seconds since then that its totals were waited for
        self._in_use = InUse()
        self._steps = TakenSteps(late=0 if self.device_id is None else 1)
        self._reader = ThreadPoolExecutor(1, "totals")
        self._accumulate = tf.function(self._accumulate, jit_compile=False)
        self._finish = tf.function(self._finish, jit_compile=False)
        self._norm = tf.function(tf.linalg.global_norm, jit_compile=False)
        self._count = tf.function(self._count, jit_compile=False, reduce_retracing=True)
        self._statistics_of = tf.function(self._statistics_of, jit_compile=False)

    @_in_contact()
    def train_step(
        self, plan: StepPlan, micro_batches: Iterable[Batch], stop: bool = False, norms: bool = False
    ) -> None:
        start = time.perf_counter()
        first, end = share(plan.micro_batches, self.rank, self.size)
        # Tensors, since the trace of a Python number would hold for that number only.
        rate, parts = (tf.constant(n, self._dtype) for n in (plan.learning_rate, plan.micro_batches))
        tail = tf.constant(own_tail(self.rank, self.size, stop, self._times), self._dtype)
        # The same trace on all workers: TensorFlow merges reductions of tensors that it finds to be one and the same.
        alone = plan.micro_batches <= self.size
        of_weights = [self._norm(self._variables)] if norms else []
        losses, batches = {}, Awaited(micro_batches)
        for number, batch in enumerate(batches, first):
            self.pulse = self.pulse.worked()
            seeds = own.noise_seeds(self._seed, plan.samples_seen, number, len(self._generators))
            inputs = *tensors(batch), tf.constant(seeds, tf.int64), parts
            if number + 1 < end:
                losses[number] = self._accumulate(*inputs)
            else:
                self.pulse = self.pulse.met()
                wanted = tf.constant(norms)
                losses[number], tail, of_gradient, waited = self._finish(*inputs, rate, tail, wanted, alone)
            self._hold(batch, losses[number])
        self._state.momentum_is_there = True
        self._steps.add(plan, losses, self._on_the_way_to_the_host(tail, [of_gradient, *of_weights] if norms else []))
        whole = self._taking + time.perf_counter() - start
        self._times, self._taking = Times(batches.seconds(), float(waited) if self.size > 1 else 0.0, whole), 0.0

    def _on_the_way_to_the_host(self, tail: tf.Tensor, norms: list[tf.Tensor]) -> Callable[[], StepTotals]:
        """Begin to bring a step's totals to the host; returns what waits until they are there."""

        def read() -> StepTotals:
            return step_totals(tail.numpy().tolist(), [float(norm) for norm in norms])

        # A read waits for all that the device has been given so far: begun now, it is over when the next step is.
        return read if self.device_id is None else self._reader.submit(read).result

    def _accumulate(self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
        """A micro-batch before the last of this worker's part of the step; its mean loss."""
        self._sow(seeds)
        with tf.GradientTape() as tape:
            loss, sums, _ = self._forward(images, labels, training=True)
            share_of_loss = loss / parts
        for total, gradient in zip(self._gradients, self._gradients_of(share_of_loss, tape), strict=True):
            total.assign_add(gradient)
        self._vector.assign_add(tf.concat([self._statistics.last(), self._in_tail(sums)], 0))
        return loss

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
        """The last micro-batch of this worker's part, and the update.

        Traced once more where it is every worker's only one (`alone`): nothing has been added up before it.

        Returns:
            Its mean loss, the summed end of the step vector, the norm of the gradient if it is wanted, else 0, and the
            seconds that this worker's gradients have waited for those of the others.
        """
        self._sow(seeds)
        with tf.GradientTape() as tape:
            loss, sums, _ = self._forward(images, labels, training=True)
            # Divided here, so that the sum over all workers is the mean over the step (section 3, remark 3).
            share_of_loss = loss / parts
        vector = tf.concat([self._statistics.last(), self._in_tail(sums) + tail], 0)
        # One all-reduce of everything a step counts, to run beside the last backward.
        vector = sum_over_workers(vector if alone else self._vector + vector, "step_vector")
        gradients = self._gradients_of(share_of_loss, tape)
        if not alone:
            gradients = [total + gradient for total, gradient in zip(self._gradients, gradients, strict=True)]
            for total in (*self._gradients, self._vector):
                total.assign(tf.zeros_like(total))
        named = zip(self._trainable, gradients, strict=True)
        summed = [sum_over_workers(gradient, f"gradient.{name}") for name, gradient in named]
        self._optimizer.apply(summed, rate)
        of_gradient = tf.cond(norm, lambda: tf.linalg.global_norm(summed), lambda: tf.zeros([], self._dtype))
        self._statistics.update(vector[: -self._tail_length], parts)
        return loss, vector[-self._tail_length :], of_gradient, seconds_between(gradients, summed)

    def _in_tail(self, sums: tf.Tensor) -> tf.Tensor:
        """Sums over samples, in their place at the end of the step vector."""
        return tf.pad(sums, [[0, self._tail_length - SUMS]])

    def _sow(self, seeds: tf.Tensor) -> None:
        """Seed what the network draws from, before a forward in training."""
        for generator, seed in zip(self._generators, tf.unstack(seeds), strict=True):
            generator.state.assign([seed, 0])

    def _gradients_of(self, loss: tf.Tensor, tape: tf.GradientTape) -> list[tf.Tensor]:
        """Of all variables: zeros for those that the loss does not reach on this worker."""
        found = tape.gradient(loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]

    def _forward(self, images: tf.Tensor, labels: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The mean loss of a batch, its sums (loss, top-1, top-5 and size), and its best answers."""
        scores = tf.cast(self._model(tf.cast(images, self._dtype), training=training), self._dtype)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
        best = tf.math.top_k(scores, self._best).indices
        right = tf.cast(tf.cast(best, labels.dtype) == labels[:, None], self._dtype)
        samples = tf.cast(tf.size(labels), self._dtype)
        sums = [tf.reduce_sum(losses), tf.reduce_sum(right[:, 0]), tf.reduce_sum(right), samples]
        return tf.reduce_mean(losses), tf.stack(sums), best

    def _hold(self, batch: Batch, result: tf.Tensor) -> None:
        """Keep a batch until the device has made of it what it was told to."""
        if self.device_id is not None:
            self._in_use.hold(batch, self._reader.submit(result.numpy).result)

    @_in_contact()
    def take_totals(self, wait: bool) -> list[tuple[StepPlan, StepTotals]]:
        start = time.perf_counter()
        taken = self._steps.take(wait)
        self._taking += time.perf_counter() - start
        return taken

    def losses(self, plan: StepPlan) -> dict[int, float]:
        return self._steps.losses(plan)

    @_in_contact()
    def evaluate(
        self,
        batches: Iterable[Batch],
        norm: NormBatches | None = None,
        answered: Callable[[np.ndarray], None] | None = None,
    ) -> Totals:
        self._statistics.use_running()
        whole = norm is None or self._use_statistics_of(norm)
        sums = tf.zeros([SUMS], tf.float64)  # exact for any number of samples
        for batch in batches if whole else ():
            self.pulse = self.pulse.worked()
            of_batch, best = self._count(*tensors(batch))
            if answered:
                answered(best.numpy())
            self._hold(batch, of_batch)
            sums += of_batch
        self.pulse = self.pulse.met()
        if norm:
            self._statistics.use_running()
        return Totals.of(hvd.allreduce(sums, name="evaluation", op=hvd.Sum).numpy().tolist())

    def _count(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, sums, best = self._forward(images, labels, training=False)
        return tf.cast(sums, tf.float64), best

    def _use_statistics_of(self, norm: NormBatches) -> bool:
        """Put the statistics of these micro-batches into the layers; whether none of them was missing."""
        first, _ = share(norm.micro_batches, self.rank, self.size)
        sums, taken = tf.zeros_like(self._statistics.running), 0
        for number, batch in enumerate(norm.batches, first):
            self.pulse = self.pulse.worked()
            images, _ = tensors(batch)
            seeds = own.noise_seeds(self._seed, 0, number, len(self._generators))
            last = self._statistics_of(images, tf.constant(seeds, tf.int64))
            self._hold(batch, last)
            sums += last
            taken += 1
        self.pulse = self.pulse.met()
        vector = sum_over_workers(tf.concat([sums, tf.constant([taken], sums.dtype)], 0), "norm")
        self._statistics.use(vector[:-1] / norm.micro_batches)
        return round(float(vector[-1])) == norm.micro_batches

    def _statistics_of(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """The statistics of a micro-batch that runs as in training, and leaves no trace in the network."""
        with keras.StatelessScope():
            self._sow(seeds)
            self._model(tf.cast(images, self._dtype), training=True)
            return self._statistics.last()

    def state(self) -> State:
        return self._state.copy()

    def load_state(self, state: State) -> None:
        self._state.load(state)

    def fingerprint(self) -> dict[str, int]:
        return self._state.fingerprint()

    @_in_contact()
    def broadcast(self) -> None:
        self.pulse = self.pulse.met()
        state = hvd.broadcast_object(self.state() if self.rank == 0 else None, name="state")
        self.load_state(state)

    @_in_contact()
    def gather(self, value: Any) -> list[Any]:
        self.pulse = self.pulse.met()
        return hvd.allgather_object(value, name="gather")
