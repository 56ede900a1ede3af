"""This package's step, as the trainer takes it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from hvd_imagenet.backend import Backend, Batch
from hvd_imagenet.bench.steps import RATE, Task, made_up
from hvd_imagenet.bench.work import Work
from hvd_imagenet.config import Config
from hvd_imagenet.data.loader import TrainLoader
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.inputs import caching, decoding, sample_stream
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.stream import share

Steps = Iterator[tuple[StepPlan, Iterable[Batch]]]  # without end, with this worker's micro-batches of each


class Ours(Work):
    """Steps of a backend, with their totals taken as the trainer does on steps that write no line.

    Args:
        backend: of the framework.
        steps: that it takes.
        amount: images in each, over all workers.
        timed: see `Task`.
    """

    def __init__(self, backend: Backend, steps: Steps, amount: int, timed: bool):
        self.rank, self.size = backend.rank, backend.size
        self.amount = amount
        self._backend, self._steps, self._timed = backend, steps, timed
        self._taken: list[list[float]] = []

    def take(self, steps: int) -> None:
        for _ in range(steps):
            self._backend.train_step(*next(self._steps))
            self._add(wait=False)

    def finish(self) -> None:
        self._add(wait=True)

    def told(self) -> dict[str, float]:
        """Where a framework does not tell a step's parts apart, its computing is one."""
        taken, self._taken = self._taken, []
        if not self._timed or not taken:
            return {}
        data, communication, whole = (sum(seconds) / len(taken) for seconds in zip(*taken, strict=True))
        return {"data": data, "communication": communication, **self._computing(whole - data - communication)}

    def gather(self, value: Any) -> list[Any]:
        return self._backend.gather(value)

    def _add(self, wait: bool) -> None:
        for _, totals in self._backend.take_totals(wait):
            self._taken.append(list(totals.times[self.rank]))

    def _computing(self, seconds: float) -> dict[str, float]:
        if not hasattr(self._backend, "spans"):
            return {"compute": seconds}
        forward, update = self._backend.spans()
        return {"forward": forward, "backward": seconds - forward - update, "update": update}


def work(task: Task) -> Ours:
    config = task.settings()
    framework = importlib.import_module(f"{__package__}.{config.framework}_backend")
    backend = (framework.Timed if task.timed else framework.Backend)(config)
    if task.fed:
        steps = _fed(config, backend)
    else:
        steps = _repeated(task.micro_batches, framework.placed(made_up(config), backend.device_id), backend)
    return Ours(backend, steps, task.micro_batches * config.batch.micro_size, task.timed)


def _repeated(micro_batches: int, batch: Batch, backend: Backend) -> Steps:
    """The same step, of one micro-batch, again and again."""
    first, end = share(micro_batches, backend.rank, backend.size)
    plan = StepPlan(0, 0, 0.0, micro_batches * len(batch.labels), micro_batches, RATE, 1.0)
    while True:
        yield plan, [batch] * (end - first)


def _fed(config: Config, backend: Backend) -> Steps:
    """A run's steps, with its loader; over and over, where the run is short."""
    train_set = open_store(config.data.path, "train", caching(config))
    policy, stream = config.policy(len(train_set)), sample_stream(config, train_set)
    worker = Worker(backend.rank, backend.size)
    while True:
        wanted = TrainRequests(train_set, policy, stream, config.data.augment, worker, decoding(config, backend))
        with TrainLoader(wanted) as loader:
            for plan in policy.steps():
                yield plan, loader.micro_batches(plan)
