"""hvd-imagenet tune: with what settings of the all-reduce the steps of a run are fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from hvd_imagenet import gpu, settings
from hvd_imagenet.bench import jobs, machine, report, training
from hvd_imagenet.bench import options as shared
from hvd_imagenet.bench.blocks import speed
from hvd_imagenet.bench.contestant import Task
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.report import Bench
from hvd_imagenet.bench.steps import Task as Steps
from hvd_imagenet.buckets import LEAST, PART
from hvd_imagenet.config import AllreduceSettings, Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.joining import cycle_ms
from hvd_imagenet.models import layers
from hvd_imagenet.models.spec import RESNETS

SEARCHED, FACTORS = ("cycle_ms", "bucket_mib"), (2, 0.5)
DESCRIPTION = """Looks for the settings of the all-reduce, allreduce.cycle_ms and allreduce.bucket_mib, with which the
steps of a run are fastest, on several workers of this machine. Two jobs at a time take turns, with real steps on
made-up images: the best settings so far, and the same with one of them doubled, or else halved. What is surely faster,
by the 95 % interval of the rounds' ratios, goes on; so nothing is changed by chance. In the end what was found is
measured against what it began with, and written as a file for --config, which goes behind the run's own. Settings are
those of hvd-imagenet train; batch.global_size is shared out among the workers."""


def main(arguments: list[str]) -> None:
    """Search, show what was measured, and write what was found.

    Raises:
        SettingsError: an option or a setting is not right; RunError: a job has failed.
    """
    config, options = settings.parse(_parser(), arguments)
    jobs.require_no_worker("tune")
    file = Path(options.output)
    _require_new(file)
    for name in ("rounds", "seconds"):
        shared.require_above_0(name, getattr(options, name))
    training.require_framework(config)
    workers = _workers(options.workers)
    micro_batches = _micro_batches(config, workers)
    transport = jobs.transports(options.transport, config.framework)[-1]
    config = training.of_steps(config, micro_batches)
    with report.going_on("tune", options) as bench:
        duel = Duel(config, workers, micro_batches, transport, bench)
        title, launcher = jobs.TRANSPORTS[transport]
        place = (
            f"{training.title(training.described(config))}; {report.counted(workers, 'worker')}, {title} ({launcher})"
        )
        bench.console.print(f"{place}; {options.rounds} rounds of {options.seconds:g} s\n")
        found = search(config.allreduce, begins(config), duel)
        if found == config.allreduce:
            bench.console.print(f"nothing is surely faster than {_shown(found)}: nothing is written")
            return
        gain = duel.ratio(found, config.allreduce)
        if gain.low <= 1:
            bench.console.print(f"measured again, {_shown(found)} is not surely faster: nothing is written")
            return
    told = f"{report.cell(asdict(gain), '.3f')} times the images/s of {_shown(config.allreduce)}"
    file.write_text(recipe(found, config.allreduce, f"{told}: {place}, on {machine.description()['processor']}"))
    print(f"{_shown(found)}: {told}, written to {file}; to train with it, give --config {file} last")


class Duel:
    """Two settings of the all-reduce, measured against each other in jobs that take turns.

    Args:
        config: all other settings.
        micro_batches: of a step, over all workers.
        bench: that they are measured by.
    """

    def __init__(self, config: Config, workers: int, micro_batches: int, transport: str, bench: Bench):
        self._config, self._workers, self._micro_batches = config, workers, micro_batches
        self._transport, self._bench = transport, bench

    def __call__(self, challenger: AllreduceSettings, best: AllreduceSettings) -> bool:
        """Whether the challenger is surely faster."""
        ratio = self.ratio(challenger, best)
        faster = ratio.low > 1
        verdict = "goes on" if faster else "is left"
        shown = f"{_shown(challenger)}: {report.cell(asdict(ratio), '.3f')} times {_shown(best)}, {verdict}"
        self._bench.console.print(shown)
        return faster

    def ratio(self, one: AllreduceSettings, other: AllreduceSettings) -> Figure:
        """Images per second of one to those of the other, round by round."""
        both = {_shown(allreduce): self._crew(allreduce) for allreduce in (one, other)}
        answered = self._bench.measure(both, {name: name for name in both})
        speeds = [[speed(answers) for answers in answered[_shown(allreduce)][0]] for allreduce in (one, other)]
        return Figure.of([mine / its for mine, its in zip(*speeds, strict=True)])

    def _crew(self, allreduce: AllreduceSettings):
        config = replace(self._config, allreduce=allreduce)
        file = training.saved(config, self._bench.folder / f"{_shown(allreduce)}.yaml")
        task = Task(f"{__package__}.steps.ours", vars(Steps(file, self._micro_batches)))
        return jobs.job(self._transport, task, self._workers)


def search(
    given: AllreduceSettings,
    begins: dict[str, float],
    is_faster: Callable[[AllreduceSettings, AllreduceSettings], bool],
) -> AllreduceSettings:
    """Settings that no doubling or halving of one of them is surely faster than, or what was given.

    One after the other is doubled as long as that is faster, or else halved.

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


def begins(config: Config) -> dict[str, float]:
    """Where the search begins: what is given, or what that leaves to be chosen comes to."""
    mib = config.allreduce.bucket_mib
    if mib is None:
        whole = (
            0
            if config.model.own
            else 4
            * layers.parameters(layers.layers(RESNETS[config.model.name], config.model.classes, config.data.image_size))
        )
        mib = max(whole / PART, LEAST) / 2**20
    return dict(zip(SEARCHED, (cycle_ms(config.allreduce, gpu.visible() > 0), mib), strict=True))


def _shown(allreduce: AllreduceSettings) -> str:
    """Those that are searched, such as "cycle_ms 10, bucket_mib default"."""
    values = {name: getattr(allreduce, name) for name in SEARCHED}
    return ", ".join(f"{name} {'default' if value is None else f'{value:g}'}" for name, value in values.items())


def _parser():
    parser = settings.parser("tune", DESCRIPTION)
    parser.add_argument("--workers", metavar="N", type=int, help="(default: the cores or GPUs of this machine)")
    parser.add_argument(
        "--transport", metavar="mpi|gloo", help="that gradients are summed by (default: MPI where it can be used)"
    )
    parser.add_argument(
        "--output", "-o", metavar="FILE", default="tuned.yaml", help="for what was found (default: tuned.yaml)"
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=12, help="turns of both jobs (default: 12)")
    parser.add_argument("--seconds", metavar="S", type=float, default=2, help="of a turn, about (default: 2)")
    return parser


def _require_new(file: Path) -> None:
    if file.exists():
        raise SettingsError(f"--output: {file}; exists: give another name, or remove it")
    if not file.resolve().parent.is_dir():
        raise SettingsError(f"--output: {file}; its folder does not exist")


def _workers(asked: int | None) -> int:
    most, what = jobs.most_workers()
    workers = most if asked is None else asked
    if not 2 <= workers <= most:
        raise SettingsError(
            f"--workers: {workers}; gradients are summed over 2 or more, and this machine has "
            f"{report.counted(most, what)}"
        )
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
