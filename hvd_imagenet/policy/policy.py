"""`LargeBatchPolicy`: the plan of every step of a run, as a pure function of the samples seen so far."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from hvd_imagenet.policy.clock import samples_at
from hvd_imagenet.policy.ramp import phases
from hvd_imagenet.policy.rate import decay, warmed_up
from hvd_imagenet.policy.settings import BatchSettings, LearningRateSettings, require


@dataclass(frozen=True)
class StepPlan:
    """What one step of the run is to do.

    Attributes:
        step: number of the step, from 0.
        samples_seen: samples taken before this step: the run's clock, and the step's place in the sample stream.
        epoch: samples_seen / dataset size.
        global_batch: samples that the step takes, over all workers (the paper's kn).
        micro_batches: number of micro-batches that these are cut into.
        learning_rate: the paper's eta.
        momentum_correction: eta of this step / eta of the step before (section 3, remark 2), 1 at the first step.
            For optimizers whose velocity absorbs the learning rate: multiply the velocity by it before the update.
    """

    step: int
    samples_seen: int
    epoch: float
    global_batch: int
    micro_batches: int
    learning_rate: float
    momentum_correction: float


@dataclass(frozen=True)
class _Walk:
    """A stretch of equal steps: the first of them, and its batch."""

    start: int
    first_step: int
    global_batch: int


class LargeBatchPolicy:
    """Scaling, warmup, schedule and batch ramp of a run (Goyal et al. 2017, sections 2 and 3).

    Args:
        dataset_size: samples in the training set (the paper's 1,281,167).
        epochs: length of the run; it ends at the first step boundary at or after that many epochs.
        batch: samples per step and per micro-batch.
        lr: the learning rate.

    Raises:
        ValueError: a length that is not above 0, a step longer than the run, or a batch that is to grow at milestones
            where there are none.
    """

    def __init__(self, dataset_size: int, epochs: float, batch: BatchSettings, lr: LearningRateSettings):
        require(dataset_size > 0, "data.train_samples", dataset_size, "give the number of training samples, above 0")
        require(0 < epochs < float("inf"), "epochs", epochs, "give a number above 0")
        require(
            batch.grow.limit is None or (lr.schedule.kind == "step" and bool(lr.schedule.milestones)),
            "batch.grow.limit",
            batch.grow.limit,
            "the batch grows at milestones: it needs lr.schedule.kind step and milestones",
        )
        self.total_samples = samples_at(epochs, dataset_size)
        first = batch.ramp()[0][1]
        require(
            first <= self.total_samples,
            "batch.global_size",
            first,
            f"the whole run is {self.total_samples} samples ({epochs:g} epochs of {dataset_size}): give less",
        )
        self.dataset_size = dataset_size
        self.epochs = epochs
        self.micro_batch = batch.micro_size
        self._lr = lr
        self._warmup_end = samples_at(lr.warmup.epochs, dataset_size)
        self._phases = [p for p in phases(dataset_size, batch, lr) if p.start < self.total_samples]
        self._starts = [phase.start for phase in self._phases]
        self._walks, self.total_steps, self.last_sample = self._walk()
        self._walk_starts = [walk.start for walk in self._walks]

    def global_batch(self, samples_seen: int) -> int:
        """Samples that a step starting after `samples_seen` samples takes."""
        return self._phase(samples_seen).global_batch

    def learning_rate(self, samples_seen: int) -> float:
        """The learning rate of a step starting after `samples_seen` samples."""
        progress = samples_seen / self._warmup_end if samples_seen < self._warmup_end else 1.0
        return warmed_up(self._lr.warmup.kind, self._lr.reference, self._target(samples_seen), progress)

    def at(self, samples_seen: int) -> StepPlan:
        """The plan of the step that starts after `samples_seen` samples.

        Raises:
            ValueError: no step of the run starts there.
        """
        walk = self._walk_at(samples_seen)
        steps, rest = divmod(samples_seen - walk.start, walk.global_batch)
        if not 0 <= samples_seen < self.total_samples or rest:
            raise ValueError(f"no step of this run starts after {samples_seen} samples")
        rate = self.learning_rate(samples_seen)
        rate_before = self.learning_rate(self._start_before(samples_seen)) if samples_seen else rate
        return StepPlan(
            step=walk.first_step + steps,
            samples_seen=samples_seen,
            epoch=samples_seen / self.dataset_size,
            global_batch=walk.global_batch,
            micro_batches=walk.global_batch // self.micro_batch,
            learning_rate=rate,
            momentum_correction=rate / rate_before if rate_before else 1.0,  # a schedule may fall below all doubles
        )

    def steps(self, from_: int = 0) -> Iterator[StepPlan]:
        """The plans of the steps from `from_` samples to the end of the run; nothing if the run has ended there."""
        samples_seen = from_
        while samples_seen < self.total_samples:
            plan = self.at(samples_seen)
            yield plan
            samples_seen += plan.global_batch

    def stretches(self) -> list[tuple[StepPlan, StepPlan]]:
        """First and last step of each stretch in which batch and learning rate follow one rule."""
        changes = list(self._starts)
        before_end = self._warmup_end - 1
        if 0 <= before_end < self.total_samples - 1 and self.learning_rate(before_end) != self._target(before_end):
            changes.append(self._warmup_end)
        firsts = sorted({self._next_start(change) for change in changes} - {self.last_sample})
        ends = firsts[1:] + [self.last_sample]
        return [(self.at(first), self.at(self._start_before(end))) for first, end in zip(firsts, ends, strict=True)]

    def smallest_step(self) -> int:
        """The smallest number of micro-batches of any step: the most workers that can share every step."""
        return min(phase.global_batch for phase in self._phases) // self.micro_batch

    def _phase(self, samples_seen: int):
        return self._phases[bisect_right(self._starts, samples_seen) - 1]

    def _target(self, samples_seen: int) -> float:
        progress = min(1.0, samples_seen / self.total_samples)
        return self._phase(samples_seen).peak_rate * decay(self._lr.schedule, progress)

    def _walk(self) -> tuple[list[_Walk], int, int]:
        """The run as stretches of equal steps, its number of steps, and the sample count at its end."""
        walks, position, step = [], 0, 0
        ends = self._starts[1:] + [self.total_samples]
        for phase, end in zip(self._phases, ends, strict=True):
            count = max(0, -((position - end) // phase.global_batch))
            if count:
                walks.append(_Walk(position, step, phase.global_batch))
            position += count * phase.global_batch
            step += count
        return walks, step, position

    def _walk_at(self, samples_seen: int) -> _Walk:
        return self._walks[max(0, bisect_right(self._walk_starts, samples_seen) - 1)]

    def _next_start(self, samples_seen: int) -> int:
        """Where the first step at or after so many samples starts; walks end on steps, so it lies in the same one."""
        walk = self._walk_at(samples_seen)
        return walk.start - (walk.start - samples_seen) // walk.global_batch * walk.global_batch

    def _start_before(self, start: int) -> int:
        return start - self._walk_at(start - 1).global_batch
