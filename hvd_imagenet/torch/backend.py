"""The PyTorch backend: one worker's part of a step and of an evaluation, and its exchange with the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from horovod.common.exceptions import HorovodInternalError
from torch.nn import functional as F

from hvd_imagenet.backend import Batch, InUse, NormBatches, Pulse, State, require_statistics
from hvd_imagenet.config import Config
from hvd_imagenet.cores import keep_to
from hvd_imagenet.cycles import step_seconds
from hvd_imagenet.errors import LostContactError, SettingsError
from hvd_imagenet.forwards import fastest, forwards, most_per_forward
from hvd_imagenet.host import cores_per_worker, own_cores, require_own_gpus, this_place
from hvd_imagenet.joining import horovod_set, meet_workers
from hvd_imagenet.memory import keep_memory
from hvd_imagenet.models import own
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.stream import share
from hvd_imagenet.torch.device import Moment, choose_device
from hvd_imagenet.torch.gradients import GradientSum
from hvd_imagenet.torch.model import build
from hvd_imagenet.torch.norm import StepStatistics
from hvd_imagenet.torch.optim import norms_of, sgd, sum_over_workers
from hvd_imagenet.torch.state import NetworkState
from hvd_imagenet.totals import SUMS, Awaited, StepTotals, TakenSteps, Times, Totals, own_tail, step_totals, tail_length


@contextmanager
def _in_contact() -> Iterator[None]:
    """Horovod's own error as what it means."""
    try:
        yield
    except HorovodInternalError as error:
        raise LostContactError(f"lost contact with the other workers ({error})") from None


class Backend:
    """See ``hvd_imagenet.backend.Backend``.

    Args:
        config: model, optimizer, precision and seed.
    """

    def __init__(self, config: Config):
        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            keep_memory()
        self.pulse = Pulse()
        with horovod_set(config.allreduce, on_gpu, config.faults.stall_seconds, step_seconds(config)):
            meet_workers(hvd)
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.device_id, gpu = choose_device(self.local_rank)
        places = self.gather(this_place(gpu))
        require_own_gpus(places)
        keep_to(mine := own_cores(places, self.rank))
        self.cores = min(len(mine), cores_per_worker(places, self.rank))
        self._device = torch.device("cpu" if self.device_id is None else f"cuda:{self.device_id}")
        torch.set_num_threads(self.cores)
        if config.precision == "float64" and self.device_id is not None:
            raise SettingsError("precision: float64; for tests on a CPU only: give float32 or bf16")

        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bf16")
        self._model = build(config.model, config.data.image_size, config.seed, self._dtype, self._device)
        self._seed = config.seed if config.model.own else None  # no other network draws anything
        self._most = most_per_forward(config.batch, self.size)
        self._statistics = StepStatistics(self._model, config.batch.micro_size, self._most)
        require_statistics(config.evaluate.precise_bn, config.model.name, len(self._statistics.running))
        self._optimizer = sgd(self._model, config.optimizer)
        self._gradients = GradientSum(self._model, config.allreduce)
        self._state = NetworkState(self._model, self._statistics, self._optimizer)
        self._tail = torch.zeros(tail_length(self.size), dtype=self._dtype, device=self._device)
        self._times: deque[Callable[[], Times]] = deque()  # of the last steps
        self._in_use = InUse()
        self._late = 0 if self.device_id is None else 1  # steps that the device may be behind
        self._steps = TakenSteps(self._late)
        if config.batch.forward_size == "auto":
            self._most = fastest(self._most, partial(self._try_forward, config), self.gather)

    def _try_forward(self, config: Config, micro_batches: int) -> None:
        """Forward and backward of so many made-up micro-batches; raises MemoryError where there is too little."""
        images, size = config.batch.micro_size, config.data.image_size
        shape = images, size, size, 3
        batch = Batch(torch.zeros(shape, device=self._device), torch.zeros(images, dtype=int, device=self._device))
        try:
            losses, _ = self._forward([batch] * micro_batches, torch.zeros_like(self._tail))
            losses.sum().backward()
        except torch.OutOfMemoryError:
            raise MemoryError from None
        finally:
            self._optimizer.zero_grad()
        if self.device_id is not None:
            torch.cuda.synchronize()

    @_in_contact()
    def train_step(
        self, plan: StepPlan, micro_batches: Iterable[Batch], stop: bool = False, norms: bool = False
    ) -> None:
        start = self._now()
        first, end = share(plan.micro_batches, self.rank, self.size)
        if not self._model.training:
            self._model.train()
        self._statistics.sums.zero_()
        times = self._times.popleft()() if len(self._times) > self._late else Times()
        tail = torch.from_numpy(own_tail(self.rank, self.size, stop, times)).to(self._dtype)
        self._tail.copy_(tail, non_blocking=True)  # of another type, it would wait for the device
        losses, waiting, number = {}, Awaited(micro_batches, self._now), first
        for batches in forwards(waiting, end - first, self._most):
            self.pulse = self.pulse.worked()
            self._sow(plan.samples_seen, number)
            of_images, _ = self._forward(batches, self._tail)
            losses[number] = of_images.detach().view(len(batches), -1).mean(1)
            number += len(batches)
            self._statistics.add(len(batches))
            if number == end:
                vector, wait = self._start_step_vector()
                self._gradients.start()
            # Divided here, so that the sum over all workers is the mean over the step (section 3, remark 3).
            of_images.backward(torch.full_like(of_images, len(batches) / len(of_images) / plan.micro_batches))
            self._hold(batches)
        ready = self._now()
        self._gradients.finish()
        summed = self._now()
        of_parameters = norms_of(self._model) if norms else self._tail[:0]
        for group in self._optimizer.param_groups:
            group["lr"] = plan.learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

        wait()
        tail = vector[len(self._statistics.sums) :]
        self._statistics.update(vector[: -len(tail)], plan.micro_batches)
        waited = partial(ready.seconds_until, summed) if self.size > 1 else float
        self._times.append(partial(_times, waiting.seconds, waited, partial(start.seconds_until, self._now())))
        self._steps.add(plan, losses, _on_the_way_to_the_host(tail, of_parameters))

    def _now(self) -> Moment:
        return Moment(self._device)

    def _start_step_vector(self) -> tuple[torch.Tensor, Callable[[], object]]:
        """Start the one all-reduce of everything a step counts, to run beside the last backward."""
        self.pulse = self.pulse.met()
        vector = torch.cat([self._statistics.sums, self._tail])
        return vector, sum_over_workers(vector, "step_vector")

    def _sow(self, samples_seen: int, number: int) -> None:
        """Seed what the network draws from, before a forward in training."""
        if self._seed is not None:
            torch.manual_seed(*own.noise_seeds(self._seed, samples_seen, number, 1))

    def _images(self, batches: list[Batch]) -> torch.Tensor:
        """The images of batches, shape (n, 3, height, width); of one, on a GPU without a copy."""
        return _joined([batch.images for batch in batches]).permute(0, 3, 1, 2).to(self._dtype)

    def _forward(self, batches: list[Batch], sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each image of some batches of one size, shape (images,), and the best answers; their summed loss,
        top-1, top-5 and number are added to the first of `sums`."""
        labels = _joined([batch.labels for batch in batches])
        with self._autocast:
            scores = self._model(self._images(batches))
        scores = scores.to(self._dtype)
        losses = F.cross_entropy(scores, labels, reduction="none")
        with torch.no_grad():
            best = scores.topk(min(5, scores.shape[1])).indices
            right = (best == labels[:, None]).to(self._dtype)
            of_samples = torch.stack([losses, right[:, 0], right.sum(1), torch.ones_like(losses)])
            sums[:SUMS] += of_samples.sum(1)
        return losses, best

    def _hold(self, batches: list[Batch]) -> None:
        """Keep batches until the device has done with them what it was told so far."""
        if self.device_id is not None:
            event = torch.cuda.Event()
            event.record()
            self._in_use.hold(batches, event.synchronize)

    def take_totals(self, wait: bool) -> list[tuple[StepPlan, StepTotals]]:
        return self._steps.take(wait)

    def losses(self, plan: StepPlan) -> dict[int, float]:
        return self._steps.losses(plan)

    @_in_contact()
    @torch.no_grad()
    def evaluate(
        self,
        batches: Iterable[Batch],
        norm: NormBatches | None = None,
        answered: Callable[[np.ndarray], None] | None = None,
    ) -> Totals:
        self._statistics.use_running()
        whole = norm is None or self._use_statistics_of(norm)
        self._model.eval()
        sums = torch.zeros(SUMS, dtype=torch.float64, device=self._device)  # exact for any number of samples
        for batch in batches if whole else ():
            self.pulse = self.pulse.worked()
            _, best = self._forward([batch], sums)
            if answered:
                answered(best.cpu().numpy())
            self._hold([batch])
        self.pulse = self.pulse.met()
        if norm:
            self._statistics.use_running()  # which a frozen layer normalises by in training, too
        sum_over_workers(sums, "evaluation")()
        return Totals.of(sums.tolist())

    def _use_statistics_of(self, norm: NormBatches) -> bool:
        """Put the statistics of these micro-batches into the layers; whether none of them was missing."""
        first, _ = share(norm.micro_batches, self.rank, self.size)
        statistics, taken = self._statistics, 0
        running = dict(statistics.named())
        kept = {name: buffer for name, buffer in self._model.named_buffers() if name not in running}
        self._model.train()
        statistics.sums.zero_()
        for number, batch in enumerate(norm.batches, first):
            self.pulse = self.pulse.worked()
            self._sow(0, number)
            # What a user's own layers keep is as it was for each micro-batch, whoever has it, and stays so.
            copies = {name: buffer.clone() for name, buffer in kept.items()}
            with self._autocast:
                torch.func.functional_call(self._model, copies, (self._images([batch]),))
            statistics.add()
            self._hold([batch])
            taken += 1
        vector = torch.cat([statistics.sums, statistics.sums.new_tensor([taken])])
        self.pulse = self.pulse.met()
        sum_over_workers(vector, "norm")()
        statistics.use(vector[:-1] / norm.micro_batches)
        return round(vector[-1].item()) == norm.micro_batches

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


def _joined(arrays: list[Any]) -> torch.Tensor:
    """What has ``__dlpack__`` as one tensor; a single one without a copy."""
    first, *others = map(torch.from_dlpack, arrays)
    return torch.cat([first, *others]) if others else first


def _times(*seconds: Callable[[], float]) -> Times:
    return Times(*(each() for each in seconds))


def _on_the_way_to_the_host(tail: torch.Tensor, norms: torch.Tensor) -> Callable[[], StepTotals]:
    """Begin to bring a step's totals to the host; returns what waits until they are there."""
    values = torch.cat([tail, norms])
    arrived = None
    if values.is_cuda:
        values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

    def read() -> StepTotals:
        if arrived is not None:
            arrived.synchronize()
        numbers = values.tolist()
        return step_totals(numbers[: len(tail)], numbers[len(tail) :])

    return read
