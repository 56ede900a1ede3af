"""The PyTorch backend: one worker's part of a step, an evaluation, and the state under neutral names."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import horovod.torch as hvd
import numpy as np
import torch
from horovod.common.exceptions import HorovodInternalError
from torch.nn import functional as F

from hvd_imagenet.backend import Batch, InUse, Pulse, State, Totals, require_same_shapes
from hvd_imagenet.config import Config
from hvd_imagenet.cores import keep_to
from hvd_imagenet.errors import LostContactError, SettingsError
from hvd_imagenet.host import cores_per_worker, own_cores, require_own_gpus, this_place
from hvd_imagenet.joining import meet_workers, set_horovod_defaults
from hvd_imagenet.models import own
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.stream import share
from hvd_imagenet.torch.device import choose_device, keep_memory
from hvd_imagenet.torch.model import build
from hvd_imagenet.torch.norm import StepStatistics
from hvd_imagenet.torch.optim import GradientSum, contiguous_view, sgd, sum_over_workers
from hvd_imagenet.torch.own import own_buffers

COUNTS = 5  # loss, top-1, top-5, samples, and workers asked to stop: the end of the step vector


@contextmanager
def _in_contact() -> Iterator[None]:
    """Horovod's own error as what it means."""
    try:
        yield
    except HorovodInternalError as error:
        raise LostContactError(f"lost contact with the other workers ({error})") from None


class _Step(NamedTuple):
    """A step that was taken: its plan, this worker's losses by the micro-batch's number, and its totals on the host.

    `ready` is the event after which they are there; None: they are.
    """

    plan: StepPlan
    losses: dict[int, torch.Tensor]
    totals: torch.Tensor
    ready: torch.cuda.Event | None


class Backend:
    """See ``hvd_imagenet.backend.Backend``.

    Args:
        config: model, optimizer, precision and seed.
    """

    def __init__(self, config: Config):
        set_horovod_defaults(torch.cuda.is_available(), config.faults.stall_seconds)
        self.pulse = Pulse()
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
        if self.device_id is None:
            keep_memory()
        if config.precision == "float64" and self.device_id is not None:
            raise SettingsError("precision: float64; for tests on a CPU only: give float32 or bf16")

        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bf16")
        self._model = build(config.model, config.data.image_size, config.seed, self._dtype, self._device)
        self._seed = config.seed if config.model.own else None  # no other network draws anything
        self._statistics = StepStatistics(self._model)
        self._optimizer = sgd(self._model, config.optimizer)
        self._gradients = GradientSum(self._model)
        self._counts = torch.zeros(COUNTS, dtype=self._dtype, device=self._device)
        self._in_use = InUse()
        self._steps: deque[_Step] = deque(maxlen=2)
        self._untaken: deque[_Step] = deque(maxlen=2)
        self._late = 0 if self.device_id is None else 1  # steps that the device may be behind when totals are taken

    @_in_contact()
    def train_step(self, plan: StepPlan, micro_batches: Iterable[Batch], stop: bool = False) -> None:
        first, end = share(plan.micro_batches, self.rank, self.size)
        self._model.train()
        self._statistics.sums.zero_()
        self._counts.zero_()
        if stop:
            self._counts[-1] = 1
        losses = {}
        for number, batch in enumerate(micro_batches, first):
            self.pulse = self.pulse.worked()
            if self._seed is not None:
                torch.manual_seed(*own.noise_seeds(self._seed, plan.samples_seen, number, 1))
            loss = self._forward(batch, self._counts)
            losses[number] = loss.detach()
            self._statistics.add()
            if number + 1 == end:
                vector, wait = self._start_step_vector()
                self._gradients.start()
            # Divided here, so that the sum over all workers is the mean over the step (section 3, remark 3).
            (loss / plan.micro_batches).backward()
            self._hold(batch)
        self._gradients.finish()
        for group in self._optimizer.param_groups:
            group["lr"] = plan.learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

        wait()
        self._statistics.update(vector[:-COUNTS], plan.micro_batches)
        step = _Step(plan, losses, *_on_the_way_to_the_host(vector[-COUNTS:]))
        self._steps.append(step)
        self._untaken.append(step)

    def _start_step_vector(self) -> tuple[torch.Tensor, Callable[[], object]]:
        """Start the one all-reduce of everything a step counts, to run beside the last backward."""
        self.pulse = self.pulse.met()
        vector = torch.cat([self._statistics.sums, self._counts])
        return vector, sum_over_workers(vector, "step_vector")

    def _forward(self, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch; its summed loss, top-1, top-5 and size are added to `counts`."""
        images = torch.from_dlpack(batch.images).permute(0, 3, 1, 2).to(self._dtype)
        labels = torch.from_dlpack(batch.labels)
        with self._autocast:
            scores = self._model(images)
        scores = scores.to(self._dtype)
        loss = F.cross_entropy(scores, labels)
        with torch.no_grad():
            best = scores.topk(min(5, scores.shape[1])).indices
            right = best == labels[:, None]
            samples = loss.new_full((), len(labels))
            counts[:-1] += torch.stack([loss * samples, right[:, 0].sum(), right.sum(), samples])
        return loss

    def _hold(self, batch: Batch) -> None:
        """Keep a batch until the device has done with it what it was told so far."""
        if self.device_id is not None:
            event = torch.cuda.Event()
            event.record()
            self._in_use.hold(batch, event.synchronize)

    def take_totals(self, wait: bool) -> list[tuple[StepPlan, Totals]]:
        taken = []
        while len(self._untaken) > (0 if wait else self._late):
            step = self._untaken.popleft()
            if step.ready is not None:
                step.ready.synchronize()
            taken.append((step.plan, _totals(step.totals)))
        return taken

    def losses(self, plan: StepPlan) -> dict[int, float]:
        step = next(step for step in self._steps if step.plan == plan)
        return {number: float(loss) for number, loss in step.losses.items()}

    @_in_contact()
    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> Totals:
        self._statistics.use_running()
        self._model.eval()
        sums = torch.zeros(COUNTS, dtype=torch.float64, device=self._device)  # exact for any number of samples
        for batch in batches:
            self.pulse = self.pulse.worked()
            self._forward(batch, sums)
            self._hold(batch)
        self.pulse = self.pulse.met()
        return _totals(hvd.allreduce(sums, name="evaluation", op=hvd.Sum))

    def _named(self) -> dict[str, torch.Tensor]:
        return {**{name: p.data for name, p in self._model.named_parameters()}, **dict(self._statistics.named())}

    def _kept(self) -> dict[str, torch.Tensor]:
        """With the buffers of a user's own layers, which may differ from worker to worker: rank 0's are saved."""
        return {**self._named(), **own_buffers(self._model)}

    def _momentum(self) -> dict[str, torch.Tensor]:
        slots = {name: self._optimizer.state[p].get("momentum_buffer") for name, p in self._trainable().items()}
        return {name: slot for name, slot in slots.items() if slot is not None}

    def _trainable(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def state(self) -> State:
        model = {name: _to_numpy(tensor) for name, tensor in self._kept().items()}
        return State(model, {name: _to_numpy(slot) for name, slot in self._momentum().items()})

    def load_state(self, state: State) -> None:
        kept = self._kept()
        require_same_shapes("model", {name: tuple(t.shape) for name, t in kept.items()}, state.model)
        parameters = self._trainable()
        if state.momentum:
            require_same_shapes("momentum", {name: tuple(p.shape) for name, p in parameters.items()}, state.momentum)
        self._optimizer.state.clear()
        for name, tensor in kept.items():
            tensor.copy_(torch.from_numpy(state.model[name]))
        self._statistics.use_running()  # which a frozen layer normalises by in training, too
        for name, slot in state.momentum.items():
            parameter = parameters[name]
            momentum = torch.empty_like(parameter).copy_(torch.from_numpy(slot))
            self._optimizer.state[parameter]["momentum_buffer"] = momentum

    def fingerprint(self) -> dict[str, int]:
        named = self._named()
        sums = torch.stack([_sum_of_bits(tensor) for tensor in named.values()])
        return dict(zip(named, sums.tolist(), strict=True))

    @_in_contact()
    def broadcast(self) -> None:
        self.pulse = self.pulse.met()
        state = hvd.broadcast_object(self.state() if self.rank == 0 else None, name="state")
        self.load_state(state)

    @_in_contact()
    def gather(self, value: Any) -> list[Any]:
        self.pulse = self.pulse.met()
        return hvd.allgather_object(value, name="gather")


def _totals(counts: torch.Tensor) -> Totals:
    loss_sum, *integers = counts.tolist()
    return Totals(loss_sum, *map(round, integers))


def _on_the_way_to_the_host(totals: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """A tensor on the host, and the event after which it holds these totals; None: it does already."""
    if not totals.is_cuda:
        return totals, None
    host = torch.empty_like(totals, device="cpu", pin_memory=True).copy_(totals, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return host, ready


def _sum_of_bits(tensor: torch.Tensor) -> torch.Tensor:
    """A checksum, int64: the values' bits as integers, each times an odd number of its place, summed.

    Any one flipped bit changes it, and so does another order.
    """
    memory = contiguous_view(tensor)
    flat = (tensor if memory is None else memory).reshape(-1)
    bits = flat.view({4: torch.int32, 8: torch.int64}[flat.element_size()]).to(torch.int64)
    return (bits * torch.arange(1, 2 * len(bits), 2, device=bits.device)).sum()


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().contiguous().numpy())
