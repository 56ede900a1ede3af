"""hvd-imagenet tune: with what settings of the all-reduce the steps of a run are fastest on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from hvd_imagenet import cycles, gpu, settings
from hvd_imagenet.bench import jobs, machine, report, training
from hvd_imagenet.bench import options as shared
from hvd_imagenet.bench.blocks import speed
from hvd_imagenet.bench.contestant import Crew, Task
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.report import Bench
from hvd_imagenet.bench.steps import Task as Steps
from hvd_imagenet.buckets import default_bytes
from hvd_imagenet.config import AllreduceSettings, Config
from hvd_imagenet.errors import RunError, SettingsError
from hvd_imagenet.planner.step import Network

FACTORS = (2, 0.5)
LEAST_STARTS = 6  # with which an interval is one of 95 %
TURNS = 3  # of each job, from one start to the next
WORTH = 1.01  # times as fast: less is not worth a setting
MIB = 2**20

DESCRIPTION = """Looks for the settings of the all-reduce, allreduce.cycle_ms and allreduce.bucket_mib, with which the
steps of a run are fastest, on several workers of this machine. Two jobs at a time take turns, with real steps on
made-up images: the best settings so far, and the same with one of them doubled, or else halved. Both are started anew
several times, since no two starts are equally fast. What is faster by more than 1 %, by the 95 % interval over the
starts, goes on. In the end what was found is measured against what it began with, and written as a file for --config,
which goes behind the run's own. Settings are those of hvd-imagenet train; a step has batch.global_size images, shared
out among the workers: of the longest, give a smaller one."""


def main(arguments: list[str]) -> None:
    """Search, show what was measured, and write what was found.

    Raises:
        SettingsError: an option or a setting is not right; RunError: a job has failed, or the file cannot be written.
    """
    config, options = settings.parse(_parser(), arguments)
    jobs.require_no_worker("tune")
    file = Path(options.output)
    _require_new(file)
    _require_sensible(options)
    training.require_measurable(config)
    workers = _workers(options.workers)
    micro_batches = _micro_batches(config, workers)
    transport = jobs.transports(options.transport, config.framework)[-1]
    config = training.of_steps(config, micro_batches)
    begin = begins(config, workers)
    launcher = jobs.TRANSPORTS[transport][1]
    place = f"{training.title(training.described(config))}, {report.counted(workers, 'worker')} by {launcher}"
    with report.going_on("tune", options) as bench:
        duel = Duel(config, workers, micro_batches, transport, options.starts, bench)
        bench.console.print(f"{place}, {options.starts} starts of each, {TURNS} turns of {options.seconds:g} s\n")
        found = search(config.allreduce, begin, duel)
        gain = None if found == config.allreduce else duel.ratio(found, config.allreduce)
    if gain is None or gain.low <= WORTH:
        print(f"nothing is surely faster than {shown(config.allreduce)}: nothing is written")
        return
    told = f"{report.cell(asdict(gain), '.3f')} times the images/s of {shown(config.allreduce)}"
    text = recipe(found, config.allreduce, f"{told}: {place}, on {machine.description()['processor']}")
    print(f"{shown(found)}: {told}\n\n{text}")
    _write(file, text)
    print(f"written to {file}; to train with it, give --config {file} behind the run's own")


class Duel:
    """Two settings of the all-reduce, measured against each other in jobs that take turns.

    Args:
        config: all other settings.
        micro_batches: of a step, over all workers.
        starts: of both jobs.
        bench: that they are measured by.
    """

    def __init__(self, config: Config, workers: int, micro_batches: int, transport: str, starts: int, bench: Bench):
        self._config, self._workers, self._micro_batches = config, workers, micro_batches
        self._transport, self._starts, self._bench = transport, starts, bench

    def __call__(self, challenger: AllreduceSettings, best: AllreduceSettings) -> bool:
        """Whether the challenger is surely faster, by what is worth it."""
        if self._are_one(challenger, best):
            return False
        ratio = self.ratio(challenger, best)
        faster = ratio.low > WORTH
        verdict = "goes on" if faster else "is left"
        cell = report.cell(asdict(ratio), ".3f")
        self._bench.console.print(f"{shown(challenger)}: {cell} times {shown(best)}, {verdict}")
        return faster

    def ratio(self, one: AllreduceSettings, other: AllreduceSettings) -> Figure:
        """Images per second of one to those of the other, from start to start."""
        names = {shown(one): self._crew(one), shown(other): self._crew(other)}
        titles = {name: name for name in names}
        answered = self._bench.measure(names, titles, rounds=self._starts * TURNS, starts=self._starts)
        ones, others = ([speed(answers) for answers in answered[name][0]] for name in names)
        ratios = [mine / its for mine, its in zip(ones, others, strict=True)]
        return Figure.of([median(ratios[first : first + TURNS]) for first in range(0, len(ratios), TURNS)])

    def _crew(self, allreduce: AllreduceSettings) -> Crew:
        config = replace(self._config, allreduce=allreduce)
        file = training.saved(config, self._bench.folder / f"{shown(allreduce)}.yaml")
        task = Task(f"{__package__}.steps.ours", vars(Steps(file, self._micro_batches)))
        return jobs.job(self._transport, task, self._workers)

    def _are_one(self, one: AllreduceSettings, other: AllreduceSettings) -> bool:
        """Whether they come to the same, since no bucket is another."""
        if self._config.model.own or one.cycle_ms != other.cycle_ms:
            return False
        ours, theirs = (Network.of(replace(self._config, allreduce=each)).tensors(1.0) for each in (one, other))
        return ours == theirs


def search(
    given: AllreduceSettings,
    begins: dict[str, float],
    is_faster: Callable[[AllreduceSettings, AllreduceSettings], bool],
) -> AllreduceSettings:
    """What is found on one pass: each setting in its turn is doubled as long as that is faster, or else halved.

    Args:
        begins: value of each setting to begin with, by its name.
        is_faster: than the other one.
    """
    best = given
    for name, begin in begins.items():
        for factor in FACTORS:
            value = begin
            while is_faster(challenger := replace(best, **{name: value * factor}), best):
                best, value = challenger, value * factor
            if value != begin:
                break
    return best


def recipe(found: AllreduceSettings, before: AllreduceSettings, why: str) -> str:
    """What differs from before, as a YAML file of settings."""
    changed = {key: value for key, value in vars(found).items() if value != getattr(before, key)}
    return f"# Found by hvd-imagenet tune: {why}.\n{yaml.safe_dump({'allreduce': changed}, sort_keys=False)}"


def begins(config: Config, workers: int) -> dict[str, float]:
    """Where the search begins: what is given, or what a default comes to, which of a network that is none of the
    table's is not known for its buckets: these are not searched then.

    Raises:
        SettingsError: there is nothing to be doubled.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // workers)
    cycle = cycles.cycle_ms(config.allreduce, gpu.visible() > 0, cycles.micro_batch_seconds(config, cores))
    if cycle == 0:
        raise SettingsError(f"{cycles.VARIABLE}: 0; cannot be doubled: unset it, or give allreduce.cycle_ms")
    found = {"cycle_ms": cycle}
    if config.allreduce.bucket_mib is not None:
        found["bucket_mib"] = config.allreduce.bucket_mib
    elif not config.model.own:
        found["bucket_mib"] = default_bytes(Network.of(config).gradient_bytes) / MIB
    return found


def shown(allreduce: AllreduceSettings) -> str:
    """Those that are searched, such as "cycle_ms 10, bucket_mib default"."""
    values = {"cycle_ms": allreduce.cycle_ms, "bucket_mib": allreduce.bucket_mib}
    return ", ".join(f"{name} {'default' if value is None else f'{value:g}'}" for name, value in values.items())


def _parser():
    parser = settings.parser("tune", DESCRIPTION)
    parser.add_argument("--workers", metavar="N", type=int, help="(default: the cores or GPUs of this machine)")
    parser.add_argument(
        "--transport", metavar="|".join(jobs.TRANSPORTS), help="of Horovod (default: MPI where it can be used)"
    )
    parser.add_argument(
        "--output", "-o", metavar="FILE", default="tuned.yaml", help="for what was found (default: tuned.yaml)"
    )
    parser.add_argument(
        "--starts",
        metavar="N",
        type=int,
        default=LEAST_STARTS,
        help=f"of each job (default: {LEAST_STARTS}, the least)",
    )
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=2, help="of a turn, about, and one step at least (default: 2)"
    )
    return parser


def _require_new(file: Path) -> None:
    if file.exists():
        raise SettingsError(f"--output: {file}; exists: give another name, or remove it")
    if str(file) in settings.recipe_names():
        raise SettingsError(f"--output: {file}; is the name of a recipe: give another one")
    folder = file.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(f"--output: {file}; its folder does not exist, or cannot be written to")


def _require_sensible(options: Any) -> None:
    shared.require_above_0("seconds", options.seconds)
    if options.starts < LEAST_STARTS:
        raise SettingsError(f"--starts: {options.starts}; give {LEAST_STARTS} or more: fewer show nothing for sure")
    if options.transport is not None and options.transport not in jobs.TRANSPORTS:
        raise SettingsError(f"--transport: {options.transport}; give one of {', '.join(jobs.TRANSPORTS)}")


def _workers(asked: int | None) -> int:
    most, what = jobs.most_workers()
    has = f"this machine has {report.counted(most, what)}"
    if asked is None and most < 2:
        raise SettingsError(f"tune: gradients are summed over 2 workers or more, and {has}: tune on one that has more")
    workers = most if asked is None else asked
    if not 2 <= workers <= most:
        raise SettingsError(f"--workers: {workers}; {has}: give a number from 2 to that")
    return workers


def _micro_batches(config: Config, workers: int) -> int:
    """Of a step, over all workers."""
    (_, size), *_ = config.batch.ramp()
    count = size // config.batch.micro_size
    if count < workers:
        raise SettingsError(
            f"--workers: {workers}; batch.global_size {size} is {report.counted(count, 'micro-batch')} of "
            f"{config.batch.micro_size}: give fewer workers, or a larger batch"
        )
    return count


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x") as opened:
            opened.write(text)
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror}); what it was to hold stands above") from None
