"""hvd-imagenet bench step: images per second of the trainer's step, of a loop by hand, and the share of a roofline."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hvd_imagenet import settings
from hvd_imagenet.bench import options as shared
from hvd_imagenet.bench import report, training
from hvd_imagenet.bench.blocks import speed
from hvd_imagenet.bench.contestant import Command, Crew, Task
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.options import Entry
from hvd_imagenet.bench.steps import Task as Steps
from hvd_imagenet.forwards import most_per_forward
from hvd_imagenet.host import cores_per_worker, this_place

OURS, FED, SEPARATE, MATRIX = "ours", "fed", "separate", "matrix"
ALTERNATIVES = {"loop": Entry("a loop by hand", "{}_loop")}
ENTRIES = {
    OURS: Entry("hvd-imagenet", "ours"),
    FED: Entry("hvd-imagenet, fed by its loader", "ours"),
    SEPARATE: Entry("hvd-imagenet, forwards of one micro-batch", "ours"),
    **ALTERNATIVES,
    MATRIX: Entry("limit: matrix products", "{}_matrix"),
}
GIGA = 1e9

DESCRIPTION = """Images per second of the trainer's step on one worker, beside a loop that was written by hand in the
same framework for the same network, precision and batch, and beside what the machine could do at best: the rate of
large matrix products. A step is of one micro-batch, or with --batch.forward_size, of those that run as one; then there
is a contestant that runs them one by one. Images are made up, once; with --data.path, there is one contestant
more, which is fed by the loader. Each has a process of its own, and a turn in every round; the others are stopped
meanwhile. Shown are medians of the rounds with their 95 % intervals, and for each contestant the median of the rounds'
ratios, ours / its own. Settings are those of hvd-imagenet train; --json writes what hvd-imagenet plan --bench reads."""


def main(arguments: list[str]) -> None:
    """Measure, and show and write what was found.

    Raises:
        SettingsError, DataError: an option, a setting or the data is not right; RunError: a contestant has failed.
    """
    parser = settings.parser("bench step", DESCRIPTION)
    shared.add_to(parser, ",".join(ALTERNATIVES), rounds=20, seconds=2)
    shared.add_starts_to(parser)
    config, options = settings.parse(parser, arguments)
    shared.require_sensible(options)
    shared.require_starts(options)
    names = [OURS, *shared.alternatives(options.against, ALTERNATIVES), MATRIX]
    training.require_measurable(config)
    count = most_per_forward(config.batch, 1)  # of a step: as many as run at once
    config = training.of_steps(config, count)
    if count > 1:
        names.insert(1, SEPARATE)
    if config.data.path is not None:
        config = training.opened(config, 1)
        names.insert(1, FED)
    with report.going_on("bench step", options) as bench:
        file = training.saved(config, bench.folder / "config.yaml")
        alone = training.saved(training.one_by_one(config), bench.folder / "one-by-one.yaml")
        files = {name: alone if name == SEPARATE else file for name in names}
        crews = {name: _crew(name, config.framework, files[name], count) for name in names}
        answered = bench.measure(crews, {name: ENTRIES[name].title for name in names}, starts=options.starts)
    speeds = {name: [speed(answers) for answers in rounds] for name, (rounds,) in answered.items()}
    told = {**training.described(config), "threads": cores_per_worker([this_place(None)], 0)}
    size, flops = config.batch.micro_size, training.flops_per_image(config)
    parts = {"results": results(speeds, size, count, flops)}
    show(report.written("step", told, options, training.DISTRIBUTIONS, parts), bench.console)


def results(speeds: dict[str, list[float]], micro_size: int, micro_batches: int, flops: int | None) -> dict[str, Any]:
    """What ``hvd_imagenet.planner.measured`` reads, and of each contestant its speed, ours / its own, and its share of
    the roofline, round by round.

    Args:
        speeds: images per second, by the contestants' names; of the matrix products, GFLOP per second.
        micro_batches: of a step.
        flops: of an image; None: not known.
    """
    found = {}
    for name, its in speeds.items():
        found[name] = {"title": ENTRIES[name].title}
        if name == MATRIX:
            found[name]["gflops"] = asdict(Figure.of(its))
            continue
        ratios = [our / own for our, own in zip(speeds[OURS], its, strict=True)]
        found[name] |= {"images_per_second": asdict(Figure.of(its)), "ours_to_it": asdict(Figure.of(ratios))}
        if flops:
            shares = [one * flops / (GIGA * rate) for one, rate in zip(its, speeds[MATRIX], strict=True)]
            found[name]["roofline_share"] = asdict(Figure.of(shares))
    return {
        "images_per_second": asdict(Figure.of(speeds[OURS])),
        "micro_size": micro_size,
        "workers": 1,
        "nodes": 1,
        "micro_batches": micro_batches,
        "flops_per_image": flops,
        "contestants": found,
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    told, contestants = found["settings"], found["results"]["contestants"]
    table = Table(
        title=f"{training.title(told)}, {report.counted(told['threads'], 'thread')}, {report.turns(told)}",
        caption=f"{report.FOOTNOTE}; {found['machine']['processor']}",
    )
    for column, justify in (
        ("", "left"),
        ("images/s", "right"),
        ("ours / its own", "right"),
        ("of the limit", "right"),
    ):
        table.add_column(column, justify=justify)
    for name, one in contestants.items():
        if name == MATRIX:
            table.add_section()
            table.add_row(one["title"], f"{report.cell(one['gflops'], ',.1f')} GFLOP/s", "", "")
            continue
        ratio = "" if name == OURS else report.cell(one["ours_to_it"], ".3f")
        share = report.cell(one["roofline_share"], ".1%") if "roofline_share" in one else "not known"
        table.add_row(one["title"], report.cell(one["images_per_second"], ",.1f"), ratio, share)
    console.print(table)
    flops = found["results"]["flops_per_image"]
    if flops:
        console.print(f"an image's forward and backward: {flops / GIGA:,.2f} GFLOP, in convolutions and the classifier")


def _crew(name: str, framework: str, config: str, micro_batches: int) -> Crew:
    module = f"{__package__}.steps.{ENTRIES[name].module.format(framework)}"
    task = Task(module, vars(Steps(config, micro_batches, fed=name == FED)), sorted(os.sched_getaffinity(0)))
    return Crew([Command(task)])
