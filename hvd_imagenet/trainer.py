"""The only loop: walks a run along its sample stream. Knows no framework."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any, NoReturn

from hvd_imagenet import backend as backends
from hvd_imagenet.config import Config
from hvd_imagenet.data.loader import TrainLoader
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.elastic import Elastic
from hvd_imagenet.errors import CheckpointError, DivergedError, RunError, StoppedError
from hvd_imagenet.evaluation.totals import evaluate_all
from hvd_imagenet.faults.divergence import REMEDY, diverged
from hvd_imagenet.faults.fingerprints import require_same_weights
from hvd_imagenet.faults.job import Job
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.faults.together import together
from hvd_imagenet.inputs import decoding
from hvd_imagenet.joining import NO_STALL
from hvd_imagenet.listeners import listeners
from hvd_imagenet.metrics import lines, result
from hvd_imagenet.metrics.journal import Journal
from hvd_imagenet.metrics.spending import Spending
from hvd_imagenet.metrics.stopwatch import Stopwatch
from hvd_imagenet.policy import StepPlan
from hvd_imagenet.policy.clock import periods
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.saver import Saver
from hvd_imagenet.startup import Start, prepare
from hvd_imagenet.totals import StepTotals, Totals


def train(config: Config, run: RunDirectory, resume: str) -> None:
    """Train from the beginning, or from the newest usable checkpoint, to the end.

    Every worker calls this with the same arguments. All checks come before any work, and what one worker finds wrong
    ends all of them with the same error.

    Args:
        resume: no: begin a run; always: go on with the one in the folder; auto: go on if there is one.

    Raises:
        RunError: see ``hvd_imagenet.errors``.
    """
    with StopRequests() as stop, Elastic.of_this_job() or nullcontext() as elastic:
        kind = backends.load(config.framework)
        if elastic:
            elastic.meet(config.faults.stall_seconds or NO_STALL)
        backend = kind(config)
        with Job(backend, run, config.faults, stop, elastic) as job:
            Trainer(prepare(config, run, resume, backend, job)).run()


class Trainer:
    """One run, from where it is to its end."""

    def __init__(self, start: Start):
        self._start = start
        self._config, self._policy, self._progress = start.config, start.policy, start.progress
        self._run, self._backend, self._job = start.run, start.backend, start.job
        self._elastic = start.job.elastic
        self._compared = False

    def run(self) -> None:
        """Take the steps that are left, and write the result."""
        config = self._config
        wanted = TrainRequests(
            self._start.train_set,
            self._policy,
            self._start.stream,
            config.data.augment,
            Worker(self._backend.rank, self._backend.size),
            decoding(config, self._backend),
        )
        with TrainLoader(wanted, from_=self._progress.samples_seen) as loader:
            self._walk(loader)

    def _walk(self, loader: TrainLoader) -> None:
        progress = self._progress
        self._journal = self._open_journal()
        self._saver = Saver(self._start, self._journal)
        self._wall_start = time.monotonic() - progress.wall_seconds
        self._stopwatch = Stopwatch(progress.train_seconds, progress.samples_seen)
        self._spending = Spending(self._job.hosts)
        try:
            self._greet()
            self._journal.begin(self._moment())
            if progress.evaluation_due:
                with self._stopwatch.paused():
                    self._evaluate()
            for plan in self._policy.steps(from_=progress.samples_seen):
                asked, logs = self._interrupted(), self._logs(plan)
                self._backend.train_step(plan, loader.micro_batches(plan), stop=asked, norms=logs)
                self._after(plan, logs)
            if not progress.evaluations or progress.evaluations[-1]["step"] != progress.step:
                self._evaluate()  # the run was longer once, and goes on beyond its end
            self._finish()
        except RunError as error:
            self._journal.failed(str(error))
            raise
        finally:
            self._journal.close()

    def _after(self, plan: StepPlan, logs: bool) -> None:
        """Move the clock; log, save and evaluate where it says so, and heed what the workers agreed on."""
        progress, config = self._progress, self._config
        progress.step = plan.step + 1
        progress.samples_seen = plan.samples_seen + plan.global_batch
        ended = progress.samples_seen >= self._policy.total_samples
        saves = ended or self._every(config.checkpoint.every_steps) or self._due(config.checkpoint.every_epochs, plan)
        progress.evaluation_due = ended or self._due(config.evaluate.every_epochs, plan)
        every = config.faults.fingerprint_every_steps
        compares = every and (not self._compared or self._every(every) or saves or progress.evaluation_due)

        commits = self._elastic and (saves or self._every(config.faults.commit_every_steps))

        pauses = logs or compares or saves or commits or progress.evaluation_due
        taken = self._take(wait=pauses)
        stop = any(totals.stop for _, totals in taken)
        if stop and not pauses:
            self._take(wait=True)
        if not (pauses or stop):
            return
        progress.train_seconds = self._stopwatch.seconds()  # the device is done with its steps: the rest is not theirs
        with self._stopwatch.paused():
            if logs:
                self._log(*taken[-1])
            if compares:
                require_same_weights(self._backend, progress.step)
                self._compared = True
            if stop or commits:
                self._commit()
            if saves:
                self._save(must=ended)
            if stop:
                self._stop()
            if progress.evaluation_due:
                self._evaluate()

    def _logs(self, plan: StepPlan) -> bool:
        """Whether there is a line about a step."""
        ends = plan.samples_seen + plan.global_batch >= self._policy.total_samples
        return ends or (plan.step + 1) % self._config.log.every_steps == 0

    def _due(self, every_epochs: float | None, plan: StepPlan) -> bool:
        if every_epochs is None:
            return False
        size = self._policy.dataset_size
        after = periods(every_epochs, plan.samples_seen + plan.global_batch, size)
        return after > periods(every_epochs, plan.samples_seen, size)

    def _every(self, steps: int | None) -> bool:
        return steps is not None and self._progress.step % steps == 0

    def _epoch(self) -> float:
        return self._progress.samples_seen / self._policy.dataset_size

    def _moment(self) -> dict[str, float]:
        return {"step": self._progress.step, "epoch": self._epoch()}

    def _take(self, wait: bool) -> list[tuple[StepPlan, StepTotals]]:
        """Count what the steps have come to that are done."""
        progress, taken = self._progress, self._backend.take_totals(wait)
        for plan, totals in taken:
            if not math.isfinite(totals.loss_sum):
                start = self._start
                compressed = start.config.allreduce.compression != "none"
                raise diverged(self._backend, plan, start.stream, start.train_set, compressed)
            progress.trained = list(vars(Totals(*progress.trained) + totals).values())
            self._spending.add(totals)
        return taken

    def _log(self, plan: StepPlan, totals: StepTotals) -> None:
        norms = {"grad_norm": totals.norms.gradient, "weight_norm": totals.norms.weights}
        self._journal.step(
            {
                "step": self._progress.step,
                "samples_seen": self._progress.samples_seen,
                "epoch": self._epoch(),
                "loss": totals.loss,
                **totals.accuracies(),
                "lr": plan.learning_rate,
                "global_batch": plan.global_batch,
                "images_per_second": self._stopwatch.images_per_second(self._progress.samples_seen),
                **self._spending.since(),
                **{name: norm for name, norm in norms.items() if math.isfinite(norm)},
            }
        )

    def _evaluate(self) -> None:
        progress = self._progress
        start = self._start
        self._journal.evaluating(self._moment())
        totals = evaluate_all(self._config, self._backend, start.val_set, self._job.stop, start.norm_images)
        if totals is None:
            self._stop()
        if not math.isfinite(totals.loss_sum):
            self._saver.discard(progress.step)
            raise DivergedError(f"the loss in the evaluation after step {progress.step} is {totals.loss}; {REMEDY}")
        event = {**self._moment(), "loss": totals.loss, **totals.accuracies(), "count": totals.count}
        trained = Totals(*progress.trained)
        if trained.count:
            seen = {"loss": trained.loss, **trained.accuracies()}
            event |= {f"train_{name}": value for name, value in seen.items()}
        progress.trained = [0.0, 0, 0, 0]
        progress.evaluations.append(event)
        progress.evaluation_due = False
        self._journal.evaluation(event)
        progress.wall_seconds = time.monotonic() - self._wall_start
        self._saver.evaluated(progress)

    def _save(self, must: bool) -> None:
        self._progress.wall_seconds = time.monotonic() - self._wall_start
        self._saver.save(self._progress, must)

    def _stop(self) -> NoReturn:
        """End the job as asked, with everything saved."""
        asked = {rank: how for rank, how in enumerate(self._backend.gather(self._job.stop.asked)) if how}
        if not asked:
            self._job.begin_anew("the hosts have changed")
        if self._saver.saved_step != self._progress.step:
            self._save(must=True)
        error = StoppedError(
            f"stopped after step {self._progress.step} of {self._policy.total_steps}, since "
            f"{' and '.join(f'worker {rank} {how}' for rank, how in asked.items())}; "
            "everything is saved: run again with --resume to go on"
        )
        error.rank = min(asked)
        raise error

    def _interrupted(self) -> bool:
        return bool(self._job.stop.asked or (self._elastic and self._elastic.hosts_changed))

    def _commit(self) -> None:
        if self._elastic:
            self._journal.wait()  # what goes on from here will not tell it again
            self._progress.wall_seconds = time.monotonic() - self._wall_start
            self._elastic.commit(self._backend.state(), self._progress)

    def _open_journal(self) -> Journal:
        with together(self._backend):
            if self._backend.rank == 0:
                try:
                    return Journal(listeners(self._start))
                except OSError as error:
                    raise CheckpointError(
                        f"{self._run.path}: cannot be written ({error.strerror}); free some space"
                    ) from None
        return Journal()

    def _greet(self) -> None:
        policy, step, size = self._policy, self._progress.step, self._backend.size
        happened = self._elastic and self._elastic.happened
        if happened:
            self._journal.say(f"{happened['reason']}: begun anew, there were {happened['workers']} workers")
        self._journal.say(
            f"{self._config.model.name} in {self._config.framework} on {size} worker{'s' if size > 1 else ''}, "
            f"{len(self._start.train_set):,} images, {policy.total_steps:,} steps{f' from {step:,}' if step else ''}, "
            f"into {self._run.path}"
        )
        if self._start.resumed and self._progress.samples_seen < policy.total_samples:
            moment = {"step": step, "samples_seen": self._progress.samples_seen, "workers": size}
            if happened:
                moment |= {"workers_before": happened["workers"], "reason": happened["reason"]}
            self._journal.restart({**moment, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    def _finish(self) -> None:
        self._journal.flush()  # a result is made of what has been told
        with together(self._backend), self._job.writing:
            if self._backend.rank == 0:
                outcome = self._result()
                self._run.write_result(outcome)
                self._journal.done(outcome)
                where = self._run.path / "result.json"
                self._journal.say(f"done: validation top-1 {outcome['val_top1']:.2%}, in {where}")

    def _result(self) -> dict[str, Any]:
        restarts = [event for event in lines.read(self._run.metrics) if event.pop("event") == "restart"]
        return {
            **result.accuracies(self._progress.evaluations),
            "epochs": self._epoch(),
            "steps": self._progress.step,
            "samples_seen": self._progress.samples_seen,
            "workers": self._backend.size,
            "framework": self._config.framework,
            "images_per_second": self._progress.samples_seen / self._progress.train_seconds,
            "wall_seconds": time.monotonic() - self._wall_start,
            "restarts": restarts,
        }
