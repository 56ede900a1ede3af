"""The Keras backend: one worker's part of a step and of an evaluation, and its exchange with the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.backend import Batch, InUse, NormBatches, Pulse, State, require_statistics
from hvd_imagenet.config import Config
from hvd_imagenet.cores import keep_to
from hvd_imagenet.cycles import step_seconds
from hvd_imagenet.errors import LostContactError, SettingsError
from hvd_imagenet.forwards import fastest, forwards, most_per_forward
from hvd_imagenet.host import own_cores, require_own_gpus, this_place
from hvd_imagenet.joining import horovod_set, meet_workers
from hvd_imagenet.keras.device import choose_device, joined, set_threads
from hvd_imagenet.keras.graph import StepGraph
from hvd_imagenet.keras.model import build
from hvd_imagenet.keras.norm import StepStatistics
from hvd_imagenet.keras.optim import SGD, sum_over_workers
from hvd_imagenet.keras.state import NetworkState
from hvd_imagenet.memory import keep_memory
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
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        if not on_gpu:
            keep_memory()
        self.pulse = Pulse()
        with horovod_set(config.allreduce, on_gpu, config.faults.stall_seconds, step_seconds(config)):
            meet_workers(hvd)
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        threads = set_threads(self.local_size)
        self.device_id, gpu = choose_device(self.local_rank)
        places = self.gather(this_place(gpu))
        require_own_gpus(places)
        keep_to(mine := own_cores(places, self.rank))  # TensorFlow's threads too, where there are any by now
        self.cores = min(len(mine), threads)
        if config.precision == "float64" and self.device_id is not None:
            raise SettingsError("precision: float64; for tests on a CPU only: give float32 or bf16")

        self._dtype = "float64" if config.precision == "float64" else "float32"
        keras.config.set_floatx(self._dtype)
        keras.config.set_dtype_policy("mixed_bfloat16" if config.precision == "bf16" else self._dtype)
        size = config.data.image_size
        self._model = model = build(config.model, size, config.seed)
        self._seed = config.seed
        self._most = most_per_forward(config.batch, self.size)
        self._statistics = StepStatistics(model, (config.batch.micro_size, size, size, 3))
        require_statistics(config.evaluate.precise_bn, config.model.name, self._statistics.running.shape[0])
        optimizer = SGD(model, config.optimizer)
        self._state = NetworkState(model, self._statistics, optimizer)
        self._graph = StepGraph(model, self._statistics, optimizer, config, tail_length(self.size))
        self._times = Times()  # of the last step
        self._taking = 0.0  # seconds since then that its totals were waited for
        self._in_use = InUse()
        self._steps = TakenSteps(late=0 if self.device_id is None else 1)
        self._reader = ThreadPoolExecutor(1, "totals")
        if config.batch.forward_size == "auto":
            self._most = fastest(self._most, partial(self._try_forward, config), self.gather)

    def _try_forward(self, config: Config, micro_batches: int) -> None:
        """Forward and backward of so many made-up micro-batches; raises MemoryError where there is too little."""
        images, size = micro_batches * config.batch.micro_size, config.data.image_size
        made_up = tf.zeros((images, size, size, 3)), tf.zeros(images, tf.int64)
        try:
            self._graph.accumulate(*made_up, self._seeds(0, 0), tf.constant(1, self._dtype)).numpy()
        except tf.errors.ResourceExhaustedError:
            raise MemoryError from None
        finally:
            self._graph.forget()

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
        alone = plan.micro_batches <= self.size * self._most
        of_weights = [self._graph.norm_of_weights()] if norms else []
        losses, waiting, number = {}, Awaited(micro_batches), first
        for batches in forwards(waiting, end - first, self._most):
            self.pulse = self.pulse.worked()
            inputs = *joined(batches), self._seeds(plan.samples_seen, number), parts
            if number + len(batches) < end:
                means = self._graph.accumulate(*inputs)
            else:
                self.pulse = self.pulse.met()
                wanted = tf.constant(norms)
                means, tail, of_gradient, waited = self._graph.finish(*inputs, rate, tail, wanted, alone)
            losses[number] = means
            number += len(batches)
            self._hold(batches, means)
        self._state.momentum_is_there = True
        self._steps.add(plan, losses, self._on_the_way_to_the_host(tail, [of_gradient, *of_weights] if norms else []))
        whole = self._taking + time.perf_counter() - start
        self._times, self._taking = Times(waiting.seconds(), float(waited) if self.size > 1 else 0.0, whole), 0.0

    def _on_the_way_to_the_host(self, tail: tf.Tensor, norms: list[tf.Tensor]) -> Callable[[], StepTotals]:
        """Begin to bring a step's totals to the host; returns what waits until they are there."""

        def read() -> StepTotals:
            return step_totals(tail.numpy().tolist(), [float(norm) for norm in norms])

        # A read waits for all that the device has been given so far: begun now, it is over when the next step is.
        return read if self.device_id is None else self._reader.submit(read).result

    def _seeds(self, samples_seen: int, number: int) -> tf.Tensor:
        """What the network draws from in the forward that begins with a micro-batch of a step."""
        return tf.constant(own.noise_seeds(self._seed, samples_seen, number, self._graph.generators), tf.int64)

    def _hold(self, batches: list[Batch], result: tf.Tensor) -> None:
        """Keep batches until the device has made of them what it was told to."""
        if self.device_id is not None:
            self._in_use.hold(batches, self._reader.submit(result.numpy).result)

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
            of_batch, best = self._graph.count(*joined([batch]))
            if answered:
                answered(best.numpy())
            self._hold([batch], of_batch)
            sums += of_batch
        self.pulse = self.pulse.met()
        if norm:
            self._statistics.use_running()
        return Totals.of(sum_over_workers(sums, "evaluation").numpy().tolist())

    def _use_statistics_of(self, norm: NormBatches) -> bool:
        """Put the statistics of these micro-batches into the layers; whether none of them was missing."""
        first, _ = share(norm.micro_batches, self.rank, self.size)
        sums, taken = tf.zeros_like(self._statistics.running), 0
        for number, batch in enumerate(norm.batches, first):
            self.pulse = self.pulse.worked()
            images, _ = joined([batch])
            last = self._graph.statistics_of(images, self._seeds(0, number))
            self._hold([batch], last)
            sums += last
            taken += 1
        self.pulse = self.pulse.met()
        vector = sum_over_workers(tf.concat([sums, tf.constant([taken], sums.dtype)], 0), "norm")
        self._statistics.use(vector[:-1] / norm.micro_batches)
        return round(float(vector[-1])) == norm.micro_batches

    def state(self) -> State:
        return self._state.copy()

    def load_state(self, state: State) -> None:
        self._state.load(state)

    def fingerprint(self) -> dict[str, int]:
        return self._state.fingerprint()

    @_in_contact()
    def broadcast(self) -> None:
        if self.size == 1:
            return
        self.pulse = self.pulse.met()
        state = hvd.broadcast_object(self.state() if self.rank == 0 else None, name="state")
        self.load_state(state)

    @_in_contact()
    def gather(self, value: Any) -> list[Any]:
        self.pulse = self.pulse.met()
        return hvd.allgather_object(value, name="gather") if self.size > 1 else [value]
