"""The Keras backend: one worker's part of a step, an evaluation, and the state under neutral names."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.backend import Batch, InUse, Pulse, State, Totals, require_same_shapes
from hvd_imagenet.config import Config
from hvd_imagenet.cores import keep_to
from hvd_imagenet.errors import LostContactError, SettingsError
from hvd_imagenet.host import own_cores, require_own_gpus, this_place
from hvd_imagenet.joining import meet_workers, set_horovod_defaults
from hvd_imagenet.keras.device import choose_device, set_threads
from hvd_imagenet.keras.model import build
from hvd_imagenet.keras.names import Parameter, named_buffers, named_parameters, trainable_parameters
from hvd_imagenet.keras.norm import StepStatistics
from hvd_imagenet.keras.optim import SGD, sum_over_workers
from hvd_imagenet.keras.own import seed_generators
from hvd_imagenet.models import own
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.stream import share

COUNTS = 5  # loss, top-1, top-5, samples, and workers asked to stop: the end of the step vector


@contextmanager
def _in_contact() -> Iterator[None]:
    """Horovod's own error as what it means."""
    try:
        yield
    except tf.errors.OpError as error:
        if "Horovod" not in str(error):
            raise
        raise LostContactError(f"lost contact with the other workers ({error.message.splitlines()[0]})") from None


class _Step(NamedTuple):
    """A step that was taken: its plan, this worker's losses by the micro-batch's number, and what reads its totals."""

    plan: StepPlan
    losses: dict[int, tf.Tensor]
    read: Callable[[], np.ndarray]


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
        self._optimizer = SGD(self._model, config.optimizer)
        self._parameters = named_parameters(self._model)
        self._trainable = trainable_parameters(self._model)
        self._variables = [parameter.variable for parameter in self._trainable.values()]
        # What the micro-batches before a step's last have added up to.
        self._gradients = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in self._variables]
        self._vector = tf.Variable(tf.zeros(self._statistics.running.shape[0] + COUNTS, self._dtype), trainable=False)
        self._momentum_is_there = False
        self._in_use = InUse()
        self._steps: deque[_Step] = deque(maxlen=2)
        self._untaken: deque[_Step] = deque(maxlen=2)
        self._late = 0 if self.device_id is None else 1  # steps that the device may be behind when totals are taken
        self._reader = ThreadPoolExecutor(1, "totals")
        self._accumulate = tf.function(self._accumulate, jit_compile=False)
        self._finish = tf.function(self._finish, jit_compile=False)
        self._count = tf.function(self._count, jit_compile=False, reduce_retracing=True)

    @_in_contact()
    def train_step(self, plan: StepPlan, micro_batches: Iterable[Batch], stop: bool = False) -> None:
        first, end = share(plan.micro_batches, self.rank, self.size)
        # Tensors, since the trace of a Python number would hold for that number only.
        rate, parts, stop = (tf.constant(n, self._dtype) for n in (plan.learning_rate, plan.micro_batches, stop))
        # The same trace on all workers: TensorFlow merges reductions of tensors that it finds to be one and the same.
        alone = plan.micro_batches <= self.size
        losses = {}
        for number, batch in enumerate(micro_batches, first):
            self.pulse = self.pulse.worked()
            seeds = own.noise_seeds(self._seed, plan.samples_seen, number, len(self._generators))
            inputs = *_tensors(batch), tf.constant(seeds, tf.int64), parts
            if number + 1 < end:
                losses[number] = self._accumulate(*inputs)
            else:
                self.pulse = self.pulse.met()
                losses[number], totals = self._finish(*inputs, rate, stop, alone)
            self._hold(batch, losses[number])
        self._momentum_is_there = True
        # A read waits for all that the device has been given so far: begun now, it is over when the next step is.
        read = self._reader.submit(totals.numpy).result if self._late else totals.numpy
        step = _Step(plan, losses, read)
        self._steps.append(step)
        self._untaken.append(step)

    def _accumulate(self, images: tf.Tensor, labels: tf.Tensor, seeds: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
        """A micro-batch before the last of this worker's part of the step; its mean loss."""
        self._sow(seeds)
        with tf.GradientTape() as tape:
            loss, counts = self._forward(images, labels, training=True)
            share_of_loss = loss / parts
        for total, gradient in zip(self._gradients, self._gradients_of(share_of_loss, tape), strict=True):
            total.assign_add(gradient)
        self._vector.assign_add(tf.concat([self._statistics.last(), counts], 0))
        return loss

    def _finish(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        seeds: tf.Tensor,
        parts: tf.Tensor,
        rate: tf.Tensor,
        stop: tf.Tensor,
        alone: bool,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The last micro-batch of this worker's part, and the update; its mean loss, and the step's counts.

        Traced once more where it is every worker's only one (`alone`): nothing has been added up before it.
        """
        self._sow(seeds)
        with tf.GradientTape() as tape:
            loss, counts = self._forward(images, labels, training=True)
            # Divided here, so that the sum over all workers is the mean over the step (section 3, remark 3).
            share_of_loss = loss / parts
        counts += tf.one_hot(COUNTS - 1, COUNTS, dtype=counts.dtype) * stop
        vector = tf.concat([self._statistics.last(), counts], 0)
        # One all-reduce of everything a step counts, to run beside the last backward.
        vector = sum_over_workers(vector if alone else self._vector + vector, "step_vector")
        gradients = self._gradients_of(share_of_loss, tape)
        if not alone:
            gradients = [total + gradient for total, gradient in zip(self._gradients, gradients, strict=True)]
            for total in (*self._gradients, self._vector):
                total.assign(tf.zeros_like(total))
        named = zip(self._trainable, gradients, strict=True)
        self._optimizer.apply([sum_over_workers(gradient, f"gradient.{name}") for name, gradient in named], rate)
        self._statistics.update(vector[:-COUNTS], parts)
        return loss, vector[-COUNTS:]

    def _sow(self, seeds: tf.Tensor) -> None:
        """Seed what the network draws from, before a forward in training."""
        for generator, seed in zip(self._generators, tf.unstack(seeds), strict=True):
            generator.state.assign([seed, 0])

    def _gradients_of(self, loss: tf.Tensor, tape: tf.GradientTape) -> list[tf.Tensor]:
        """Of all variables: zeros for those that the loss does not reach on this worker."""
        found = tape.gradient(loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]

    def _forward(self, images: tf.Tensor, labels: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The mean loss of a batch, and its counts: summed loss, top-1, top-5 and size."""
        scores = tf.cast(self._model(tf.cast(images, self._dtype), training=training), self._dtype)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
        best = tf.math.top_k(scores, self._best).indices
        right = tf.cast(tf.cast(best, labels.dtype) == labels[:, None], self._dtype)
        samples = tf.cast(tf.size(labels), self._dtype)
        counts = [tf.reduce_sum(losses), tf.reduce_sum(right[:, 0]), tf.reduce_sum(right), samples]
        return tf.reduce_mean(losses), tf.stack([*counts, tf.zeros_like(samples)])

    def _hold(self, batch: Batch, result: tf.Tensor) -> None:
        """Keep a batch until the device has made of it what it was told to."""
        if self.device_id is not None:
            self._in_use.hold(batch, self._reader.submit(result.numpy).result)

    @_in_contact()
    def take_totals(self, wait: bool) -> list[tuple[StepPlan, Totals]]:
        taken = []
        while len(self._untaken) > (0 if wait else self._late):
            step = self._untaken.popleft()
            taken.append((step.plan, _totals(step.read())))
        return taken

    def losses(self, plan: StepPlan) -> dict[int, float]:
        step = next(step for step in self._steps if step.plan == plan)
        return {number: float(loss) for number, loss in step.losses.items()}

    @_in_contact()
    def evaluate(self, batches: Iterable[Batch]) -> Totals:
        self._statistics.use_running()
        sums = tf.zeros([COUNTS], tf.float64)  # exact for any number of samples
        for batch in batches:
            self.pulse = self.pulse.worked()
            counts = self._count(*_tensors(batch))
            self._hold(batch, counts)
            sums += counts
        self.pulse = self.pulse.met()
        return _totals(hvd.allreduce(sums, name="evaluation", op=hvd.Sum).numpy())

    def _count(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf.cast(self._forward(images, labels, training=False)[1], tf.float64)

    def _named(self) -> dict[str, tf.Tensor]:
        parameters = {name: parameter.variable for name, parameter in self._parameters.items()}
        return {**parameters, **dict(self._statistics.named())}

    def _buffers(self) -> dict[str, Parameter]:
        """Of a user's own layers; they may differ from worker to worker: rank 0's are saved."""
        steps = dict(self._statistics.named())
        return {name: buffer for name, buffer in named_buffers(self._model).items() if name not in steps}

    def state(self) -> State:
        model = {name: parameter.numpy() for name, parameter in self._parameters.items()}
        model |= {name: statistic.numpy() for name, statistic in self._statistics.named()}
        model |= {name: buffer.numpy() for name, buffer in self._buffers().items()}
        momentum = {name: slot.numpy() for name, slot in self._momentum().items()}
        return State(model, momentum if self._momentum_is_there else {})

    def _momentum(self) -> dict[str, Parameter]:
        slots = zip(self._trainable.items(), self._optimizer.velocities, strict=True)
        return {name: parameter.of(velocity) for (name, parameter), velocity in slots}

    def load_state(self, state: State) -> None:
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
        self._momentum_is_there = bool(state.momentum)

    def fingerprint(self) -> dict[str, int]:
        named = self._named()
        sums = tf.stack([_sum_of_bits(tensor) for tensor in named.values()])
        return dict(zip(named, sums.numpy().tolist(), strict=True))

    @_in_contact()
    def broadcast(self) -> None:
        self.pulse = self.pulse.met()
        state = hvd.broadcast_object(self.state() if self.rank == 0 else None, name="state")
        self.load_state(state)

    @_in_contact()
    def gather(self, value: Any) -> list[Any]:
        self.pulse = self.pulse.met()
        return hvd.allgather_object(value, name="gather")


def _tensors(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch's images and labels in TensorFlow; on a GPU without a copy."""
    return tuple(map(_tensor, batch))


def _tensor(array: Any) -> tf.Tensor:
    on_cpu = array.__dlpack_device__()[0] == 1  # DLPack's kDLCPU
    if on_cpu:  # where TensorFlow ends the process if memory is not aligned as its own
        return tf.convert_to_tensor(np.from_dlpack(array))
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _totals(counts: np.ndarray) -> Totals:
    loss_sum, *integers = counts.tolist()
    return Totals(loss_sum, *map(round, integers))


def _sum_of_bits(tensor: tf.Tensor) -> tf.Tensor:
    """A checksum, int64: the values' bits as integers, each times an odd number of its place, summed.

    Any one flipped bit changes it, and so does another order.
    """
    tensor = tf.reshape(tensor, [-1])
    bits = tf.cast(tf.bitcast(tensor, {4: tf.int32, 8: tf.int64}[tensor.dtype.size]), tf.int64)
    return tf.reduce_sum(bits * tf.range(1, 2 * tf.size(bits, tf.int64), 2, dtype=tf.int64))
