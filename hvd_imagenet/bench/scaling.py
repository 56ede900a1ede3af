"""hvd-imagenet bench scaling: several workers on this machine against one, against what the machine could do at best,
and against other ways to train together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hvd_imagenet import settings
from hvd_imagenet.bench import emulation, jobs, report, scaling_table, training
from hvd_imagenet.bench import options as shared
from hvd_imagenet.bench.contestant import Crew, Task
from hvd_imagenet.bench.options import Entry
from hvd_imagenet.bench.steps import Task as Steps
from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError

ONE, UNCOUPLED, DDP, FED = "one", "uncoupled", "ddp", "fed"
ALTERNATIVES = {
    ONE: Entry("one of them alone", "ours"),
    UNCOUPLED: Entry("uncoupled", "ours"),
    DDP: Entry("DistributedDataParallel", "torch_ddp", ("torch",)),
}
OF_TORCH = (DDP,)
MOST_EMULATED = 32

DESCRIPTION = """Images per second of several workers on this machine, as a job over each transport that Horovod has,
with the settings that launch/horovodrun.sh and launch/mpirun.sh give it. Beside them: one worker alone that has the
cores of one of them; as many uncoupled workers, which share the machine and nothing else, and so are the most that it
can do; and PyTorch's DistributedDataParallel. Cores are shared out evenly. Weak scaling: each worker has one
micro-batch in a step, however many they are. A step's seconds are told apart: waiting for data, forward, backward,
communication that the backward does not hide, update. With --data.path, jobs that the loader feeds come on top. All
take turns; the others are stopped meanwhile. Settings are those of hvd-imagenet train."""


class Key(NamedTuple):
    """A contestant: its name, and the number of workers that it has, or is one of."""

    name: str
    workers: int


def main(arguments: list[str]) -> None:
    """Measure, and show and write what was found.

    Raises:
        SettingsError, DataError: an option, a setting or the data is not right; RunError: a contestant has failed.
    """
    config, options = settings.parse(_parser(), arguments)
    jobs.require_no_worker("bench scaling")
    shared.require_sensible(options)
    shared.require_starts(options)
    emulating = options.emulate_step is not None
    counts = _counts(options.workers, emulating)
    training.require_measurable(config)
    alternatives = _alternatives(options, config.framework)
    micro_batches = {count: _micro_batches(config, count, options.strong) for count in counts}
    transports = jobs.transports(options.transport, config.framework) if max(counts) > 1 else []
    if emulating:
        sleeping = emulation.emulated(config, options.emulate_step)
        emulation.require_memory(sleeping, len(transports) * sum(counts))
    elif config.data.path is not None:
        config = training.opened(training.of_steps(config, max(micro_batches.values())), max(counts))
    with report.going_on("bench scaling", options) as bench:
        if emulating:
            task = Task(f"{__package__}.reductions.emulated_step", sleeping)
            crews = {Key(name, count): jobs.job(name, task, count) for count in counts for name in transports}
        else:
            files = {
                count: training.saved(training.of_steps(config, parts), bench.folder / f"{count}.yaml")
                for count, parts in micro_batches.items()
            }
            keys = _keys(counts, transports, alternatives, config.data.path is not None)
            crews = {key: _crew(key, files[key.workers], micro_batches[key.workers]) for key in keys}
        named = {_text(key): crew for key, crew in crews.items()}
        titles = {_text(key): f"{_title(key)}, {key.workers}" for key in crews}
        answered = bench.measure(named, titles, starts=options.starts)
    rounds = {key: answered[_text(key)][0] for key in crews}
    told = {**training.described(config), "workers": counts, "strong": options.strong}
    told["emulate_step_ms"] = options.emulate_step
    rows = scaling_table.emulated(rounds, options.emulate_step) if emulating else scaling_table.measured(rounds)
    parts = {"results": [{**row, "title": _title(Key(row["contestant"], row["workers"]))} for row in rows]}
    found = report.written("scaling", told, options, [*training.DISTRIBUTIONS, "mpi4py"], parts)
    scaling_table.show(found, bench.console)


def _parser():
    parser = settings.parser("bench scaling", DESCRIPTION)
    known = ",".join(ALTERNATIVES)
    parser.add_argument(
        "--workers", metavar="N,N", help="how many (default: powers of two, up to the cores or GPUs of this machine)"
    )
    parser.add_argument(
        "--strong", action="store_true", help="strong scaling: a step has batch.global_size images, of all workers"
    )
    parser.add_argument(
        "--transport", metavar="A,B", help=f"of {','.join(jobs.TRANSPORTS)} (default: those that can be used here)"
    )
    parser.add_argument(
        "--emulate-step",
        metavar="MS",
        type=float,
        help="workers sleep for so many milliseconds in place of forward and backward, and exchange gradients as if "
        "they had made them: what coordination costs with more workers than cores; nothing else is measured",
    )
    shared.add_to(parser, known, rounds=20, seconds=5)
    shared.add_starts_to(parser)
    return parser


def _counts(given: str | None, emulating: bool) -> list[int]:
    """The numbers of workers.

    Raises:
        SettingsError: one is none, or does not fit on this machine.
    """
    most, what = jobs.most_workers()
    if given is None:
        return emulation.powers_of_two(MOST_EMULATED, 2) if emulating else emulation.powers_of_two(most)
    counts = []
    for text in given.split(","):
        least = 2 if emulating else 1
        if not text.strip().isdecimal() or int(text) < least:
            raise SettingsError(f"--workers: {given}; give numbers from {least} on, with a comma between")
        counts.append(int(text))
    if max(counts) > most and not emulating:
        raise SettingsError(
            f"--workers: {max(counts)}; this machine has {report.counted(most, what)}: give at most as many, or "
            "--emulate-step MS"
        )
    return sorted(set(counts))


def _alternatives(options: Any, framework: str) -> list[str]:
    if options.emulate_step is None:
        names = shared.alternatives(options.against, ALTERNATIVES)
        for name in OF_TORCH if framework != "torch" else ():
            if options.against is not None and name in names:
                raise SettingsError(f"--against: {name}; is of PyTorch: give --framework torch, or leave it out")
        return [name for name in names if framework == "torch" or name not in OF_TORCH]
    for name in ("against", "strong"):
        if getattr(options, name):
            raise SettingsError(f"--{name}: with --emulate-step there is none: leave it out")
    if not (options.emulate_step > 0 and math.isfinite(options.emulate_step)):
        raise SettingsError(f"--emulate-step: {options.emulate_step}; give a number of milliseconds above 0")
    return []


def _micro_batches(config: Config, workers: int, strong: bool) -> int:
    """Of a step, over all workers."""
    if not strong:
        return workers
    (_, size), *_ = config.batch.ramp()
    count = size // config.batch.micro_size
    if count % workers:
        raise SettingsError(
            f"--strong: batch.global_size {size} is {count} micro-batches of "
            f"{config.batch.micro_size}, which {workers} workers cannot share evenly; give a multiple of "
            f"{workers * config.batch.micro_size}"
        )
    return count


def _keys(counts: list[int], transports: list[str], alternatives: list[str], fed: bool) -> list[Key]:
    """All contestants: of one worker, there is only the one alone."""
    found = []
    for count in counts:
        names = [ONE] if count == 1 else [*transports, *alternatives]
        if fed:
            names += [FED] if count == 1 else [f"{FED}-{name}" for name in transports]
        found += [Key(name, count) for name in names]
    return found


def _crew(key: Key, config: str, micro_batches: int) -> Crew:
    """The processes of a contestant; `micro_batches` are those of a step of the whole job."""
    name, workers = key
    module = f"{__package__}.steps.{ALTERNATIVES[name].module if name in ALTERNATIVES else 'ours'}"

    def task(**more: Any) -> Task:
        return Task(module, vars(Steps(config, **more)))

    if name in (ONE, UNCOUPLED):
        alone = task(micro_batches=micro_batches // workers, timed=True)
        return jobs.apart(alone, 1 if name == ONE else workers, of=workers)
    if name == FED:
        return jobs.apart(task(micro_batches=micro_batches, fed=True, timed=True), 1)
    if name == DDP:
        meeting = f"{config}.meeting"
        each = {"micro_batches": micro_batches, "workers": workers, "meeting": meeting}
        return jobs.together([task(rank=rank, **each) for rank in range(workers)])
    whole = task(micro_batches=micro_batches, fed=name.startswith(FED), timed=True)
    return jobs.job(name.removeprefix(f"{FED}-"), whole, workers)


def _title(key: Key) -> str:
    name, workers = key
    if name == ONE and workers == 1:
        return "one worker"
    if name in ALTERNATIVES:
        return ALTERNATIVES[name].title
    if name == FED:
        return "one worker, fed by its loader"
    transport, launcher = jobs.TRANSPORTS[name.removeprefix(f"{FED}-")]
    return f"hvd-imagenet, {transport} ({launcher}){', fed by its loader' if name.startswith(FED) else ''}"


def _text(key: Key) -> str:
    return f"{key.name} of {key.workers}"
