"""The only loop: walks a run along its sample stream. Knows no framework."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np

from hvd_imagenet import backend as backends
from hvd_imagenet import checkpoint
from hvd_imagenet.backend import Backend, Totals
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.config import Config
from hvd_imagenet.data.loader import TrainLoader, Worker, evaluation_batches
from hvd_imagenet.data.store import Store
from hvd_imagenet.errors import CheckpointError, DivergedError
from hvd_imagenet.metrics import lines, result
from hvd_imagenet.metrics.journal import Journal, NoJournal
from hvd_imagenet.metrics.stopwatch import Stopwatch
from hvd_imagenet.policy import LargeBatchPolicy, StepPlan
from hvd_imagenet.policy.clock import periods
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.startup import (
    check_classes,
    check_fit,
    check_same_walk,
    decoding,
    open_everywhere,
    read_checkpoint,
    require_data,
    take_over,
    together,
)

EVALUATION_BATCH = 128


def train(config: Config, run: RunDirectory, resume: bool) -> None:
    """Train from the beginning, or from the newest checkpoint, to the end.

    Every worker calls this with the same arguments. All checks come before any work, and what one worker finds wrong
    ends all of them with the same error.

    Raises:
        RunError: see ``hvd_imagenet.errors``.
    """
    backend = backends.load(config.framework)(config)
    with together(backend):
        require_data(config)
    train_set, val_set = (open_everywhere(config, split, backend) for split in ("train", "val"))
    policy = config.policy(len(train_set))
    with together(backend):
        check_fit(config, policy, train_set, backend.size)
        if backend.rank == 0:
            run.check_free(resume)
    config = resolved(config, train_set)
    state, progress, saved = read_checkpoint(run, backend) if resume else (None, Progress(), None)
    with together(backend):
        check_same_walk(config, saved, policy, progress)
    take_over(state, backend)
    with together(backend):
        if backend.rank == 0:
            run.write_config(config)
    Trainer(config, run, backend, policy, train_set, val_set, progress).run()


def resolved(config: Config, train_set: Store) -> Config:
    """The settings with what the data set tells, to be found again from any folder."""
    path = str(train_set.path.resolve())
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=path, train_samples=len(train_set)))


def evaluate(config: Config, run: RunDirectory) -> Totals:
    """Evaluate a run's newest checkpoint on the validation set, shared out among the workers."""
    backend = backends.load(config.framework)(config)
    with together(backend):
        require_data(config)
    val_set = open_everywhere(config, "val", backend)
    with together(backend):
        check_classes(config, val_set)
        if backend.rank == 0 and not checkpoint.checkpoints(run.checkpoints):
            raise CheckpointError(f"{run.checkpoints}: holds no checkpoint; the run has not got so far")
    state, *_ = read_checkpoint(run, backend)
    take_over(state, backend)
    return evaluate_all(config, backend, val_set)


def evaluate_all(config: Config, backend: Backend, val_set: Store) -> Totals:
    """Totals over the validation set, every image of it once."""
    worker = Worker(backend.rank, backend.size)
    totals = backend.evaluate(evaluation_batches(val_set, EVALUATION_BATCH, worker, decoding(config, backend)))
    if totals.count != len(val_set):
        raise RuntimeError(f"evaluated {totals.count} images of {len(val_set)}")
    return totals


class Trainer:
    """One run, with its data open, its folder claimed, and the backend in the state that it starts from."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        backend: Backend,
        policy: LargeBatchPolicy,
        train_set: Store,
        val_set: Store,
        progress: Progress,
    ):
        self._config = config
        self._run = run
        self._backend = backend
        self._policy = policy
        self._train_set = train_set
        self._val_set = val_set
        self._progress = progress

    def run(self) -> None:
        """Take the steps that are left, and write the result."""
        config, progress = self._config, self._progress
        loader = TrainLoader(
            self._train_set,
            self._policy,
            config.seed,
            config.data.augment,
            Worker(self._backend.rank, self._backend.size),
            decoding(config, self._backend),
            from_=progress.samples_seen,
        )
        first = self._backend.rank == 0
        self._journal = Journal(self._run.metrics, self._run.log, self._policy, progress.step) if first else NoJournal()
        self._wall_start = time.monotonic() - progress.wall_seconds
        self._stopwatch = Stopwatch(progress.train_seconds, progress.samples_seen)
        try:
            self._journal.say(self._greeting())
            for plan in self._policy.steps(from_=progress.samples_seen):
                self._backend.train_step(plan, loader.micro_batches(plan))
                self._after(plan)
            if self._backend.rank == 0:
                self._finish()
        finally:
            self._journal.close()

    def _greeting(self) -> str:
        policy, step, size = self._policy, self._progress.step, self._backend.size
        return (
            f"{self._config.model.name} in {self._config.framework} on {size} worker{'s' if size > 1 else ''}, "
            f"{len(self._train_set):,} images, {policy.total_steps:,} steps{f' from {step:,}' if step else ''}, "
            f"into {self._run.path}"
        )

    def _after(self, plan: StepPlan) -> None:
        """Move the clock; log, evaluate and save where it says so."""
        progress, config = self._progress, self._config
        progress.step = plan.step + 1
        progress.samples_seen = plan.samples_seen + plan.global_batch
        ended = progress.samples_seen >= self._policy.total_samples
        logs = ended or progress.step % config.log.every_steps == 0
        evaluates = ended or self._due(config.evaluate.every_epochs, plan)
        saves = ended or self._due(config.checkpoint.every_epochs, plan)
        if not (logs or evaluates or saves):
            return
        totals = self._backend.take_totals()  # the device is done with its steps: what follows is not their time
        self._require_finite(totals.loss_sum, plan)
        progress.train_seconds = self._stopwatch.seconds()
        with self._stopwatch.paused():
            if logs:
                self._log(plan, totals)
            if evaluates:
                self._evaluate(plan)
            if saves:
                self._save(plan)

    def _due(self, every_epochs: float, plan: StepPlan) -> bool:
        size = self._policy.dataset_size
        after = periods(every_epochs, plan.samples_seen + plan.global_batch, size)
        return after > periods(every_epochs, plan.samples_seen, size)

    def _epoch(self) -> float:
        return self._progress.samples_seen / self._policy.dataset_size

    def _require_finite(self, loss: float, plan: StepPlan) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {self._progress.step}, epoch {self._epoch():.2f}, learning rate "
                f"{plan.learning_rate:g}; lower lr.reference or lengthen lr.warmup.epochs"
            )

    def _log(self, plan: StepPlan, totals: Totals) -> None:
        progress = self._progress
        self._journal.step(
            {
                "step": progress.step,
                "samples_seen": progress.samples_seen,
                "epoch": self._epoch(),
                "loss": totals.loss,
                "top1": totals.accuracies()["top1"],
                "lr": plan.learning_rate,
                "global_batch": plan.global_batch,
                "images_per_second": self._stopwatch.images_per_second(progress.samples_seen),
            }
        )

    def _evaluate(self, plan: StepPlan) -> None:
        totals = evaluate_all(self._config, self._backend, self._val_set)
        self._require_finite(totals.loss_sum, plan)
        moment = {"step": self._progress.step, "epoch": self._epoch()}
        self._journal.evaluation({**moment, "loss": totals.loss, **totals.accuracies(), "count": totals.count})

    def _save(self, plan: StepPlan) -> None:
        self._progress.wall_seconds = time.monotonic() - self._wall_start
        with together(self._backend):
            if self._backend.rank == 0:
                state, settings = self._backend.state(), dataclasses.asdict(self._config)
                if not all(np.isfinite(array).all() for array in state.model.values()):
                    self._require_finite(math.nan, plan)  # the next loss will be; the last good checkpoint stays
                checkpoint.save(self._run.checkpoints, state, self._progress, settings, self._config.checkpoint.keep)

    def _finish(self) -> None:
        outcome = self._result()
        self._run.write_result(outcome)
        self._journal.say(f"done: validation top-1 {outcome['val_top1']:.2%}, in {self._run.path / 'result.json'}")

    def _result(self) -> dict[str, Any]:
        return {
            **result.accuracies(lines.read(self._run.metrics)),
            "epochs": self._epoch(),
            "steps": self._progress.step,
            "samples_seen": self._progress.samples_seen,
            "workers": self._backend.size,
            "framework": self._config.framework,
            "images_per_second": self._progress.samples_seen / self._progress.train_seconds,
            "wall_seconds": time.monotonic() - self._wall_start,
        }
