"""hvd-imagenet bench loader: images per second of our loader, its alternatives, and the limits of the machine."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hvd_imagenet.arguments import Parser
from hvd_imagenet.bench import options as shared
from hvd_imagenet.bench import photos, report
from hvd_imagenet.bench.blocks import speed
from hvd_imagenet.bench.contestant import Command, Crew, Task
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.loaders import IMAGE_SIZE
from hvd_imagenet.bench.loaders import Task as Loading
from hvd_imagenet.bench.options import Entry
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.host import cores_per_worker, this_place

OURS, DECODE, COPY = "ours", "decode", "copy"

ALTERNATIVES = {
    "dali": Entry("DALI's own pipeline", "loaders.dali"),
    "torch": Entry("PyTorch DataLoader, PIL", "loaders.torch_pil", ("torch",)),
    "tfdata": Entry("tf.data", "loaders.tf_data", ("tensorflow",)),
    "webdataset": Entry("WebDataset, PIL", "loaders.web_dataset", ("webdataset", "torch")),
}
LIMITS = {
    DECODE: Entry("limit: libjpeg-turbo", "loaders.jpeg_decode", ("simplejpeg",)),
    COPY: Entry("limit: memory copy", "loaders.memory_copy"),
}
ENTRIES = {OURS: Entry("hvd-imagenet", "loaders.ours"), **ALTERNATIVES, **LIMITS}
DISTRIBUTIONS = ["hvd-imagenet", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "numpy", "pillow", "torch", "tensorflow"]
DISTRIBUTIONS += ["tensorflow-cpu", "webdataset", "simplejpeg"]

DESCRIPTION = f"""Images per second from files to float32 arrays: our loader, its alternatives, and what the machine
could do at best. All read the same photos from the page cache, take a random-resized crop of each to {IMAGE_SIZE} x
{IMAGE_SIZE}, flip half of them and normalise, with the same resampling, on as many cores as threads. Each has a process
of its own, and a turn in every round; the others are stopped meanwhile. Shown are medians of the rounds with their 95 %
intervals, and for each contestant the median of the rounds' ratios, ours / its own."""


def main(arguments: list[str]) -> None:
    """Measure, and show and write what was found.

    Raises:
        SettingsError: an option is out of range, or an alternative that was asked for is not installed.
        DataError: no photos, or a contestant failed on them.
    """
    options = _parser().parse_args(arguments)
    cores = cores_per_worker([this_place(None)], 0)
    threads = cores if options.threads is None else options.threads
    _require_sensible(options, threads, cores)
    names = _contestants(options.against)
    with report.going_on("bench loader", options) as bench:
        store, numbers = photos.chosen(options.data, options.images)
        count, shards = photos.lay_out(store, numbers, bench.folder, threads)
        if count < options.batch:
            raise SettingsError(f"--batch: {options.batch}; there are {count} photos that all can read: give no more")
        task = Loading(str(bench.folder), shards, threads, options.batch, options.resampling == "antialiased")
        crews = {name: _crew(ENTRIES[name].module, task) for name in names}
        answered = bench.measure(crews, {name: ENTRIES[name].title for name in names}, error=DataError)
    speeds = {name: [speed(answers) for answers in rounds] for name, (rounds,) in answered.items()}
    settings = {"data": str(options.data), "photos": count, "threads": threads, "batch": options.batch}
    settings["resampling"] = options.resampling
    found = report.written("loader", settings, options, DISTRIBUTIONS, {"results": results(speeds, threads)})
    show(found, bench.console)


def _parser() -> Parser:
    parser = Parser(prog="hvd-imagenet bench loader", description=DESCRIPTION)
    parser.add_argument(
        "--data", metavar="PATH", type=Path, required=True, help="a packed data set, or a folder with train/CLASS/*"
    )
    shared.add_to(parser, ",".join(ALTERNATIVES), rounds=7, seconds=2)
    parser.add_argument(
        "--resampling",
        choices=("antialiased", "plain"),
        default="antialiased",
        help="antialiased: as PIL and this package resize; plain: from the nearest four pixels, as tf.data does unless "
        "told otherwise (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="and cores (default: as a single worker has on this machine)"
    )
    parser.add_argument("--batch", metavar="N", type=int, default=32, help="images per batch (default: %(default)s)")
    parser.add_argument(
        "--images", metavar="N", type=int, default=2000, help="photos at most, evenly of the set (default: %(default)s)"
    )
    return parser


def _crew(module: str, task: Loading) -> Crew:
    return Crew([Command(Task(f"{__package__}.{module}", vars(task), sorted(os.sched_getaffinity(0))[: task.threads]))])


def results(speeds: dict[str, list[float]], threads: int) -> dict[str, dict]:
    """Of each entry: what it lacks, its images per second, in all and per core, and ours / its own, round by round."""
    found = {}
    for name, entry in ENTRIES.items():
        found[name] = {"title": entry.title, "missing": entry.missing()}
        if name in speeds:
            per_core = [one / threads for one in speeds[name]]
            ratios = [our / its for our, its in zip(speeds[OURS], speeds[name], strict=True)]
            found[name] |= {"images_per_second": asdict(Figure.of(speeds[name]))}
            found[name] |= {"per_core": asdict(Figure.of(per_core)), "ours_to_it": asdict(Figure.of(ratios))}
    return found


def show(found: dict, console: Console) -> None:
    """The report as a table."""
    settings = found["settings"]
    table = Table(
        title=f"{settings['photos']:,} photos, {report.counted(settings['threads'], 'thread')}, batches of "
        f"{settings['batch']}, {settings['resampling']} resampling, "
        f"{report.turns(settings)}",
        caption=f"{report.FOOTNOTE}; {found['machine']['processor']}",
    )
    for column, justify in (("", "left"), ("images/s per core", "right"), ("ours / its own", "right")):
        table.add_column(column, justify=justify)
    for name, entry in found["results"].items():
        if name == DECODE:
            table.add_section()
        if "per_core" in entry:
            ratio = "" if name == OURS else report.cell(entry["ours_to_it"], ".3f")
            table.add_row(entry["title"], report.cell(entry["per_core"], ",.0f"), ratio)
        else:
            table.add_row(entry["title"], "not installed" if entry["missing"] else "not asked for", "")
    console.print(table)
    decode = found["results"][DECODE].get("ours_to_it")
    if decode:
        console.print(f"ours: {decode['median']:.0%} of the decode limit (whole images, nothing else)")
    missing = sorted({package for entry in found["results"].values() for package in entry["missing"]})
    if missing:
        console.print(f"for those that are not installed: pip install {' '.join(missing)}")


def _contestants(against: str | None) -> list[str]:
    """The names of all who take part.

    Raises:
        SettingsError: an alternative is unknown, or is asked for and not installed.
    """
    limits = [name for name in LIMITS if not LIMITS[name].missing()]
    return [OURS, *shared.alternatives(against, ALTERNATIVES), *limits]


def _require_sensible(options: Namespace, threads: int, cores: int) -> None:
    for name, value in (("threads", threads), ("batch", options.batch), ("images", options.images)):
        shared.require_above_0(name, value)
    if threads > cores:
        raise SettingsError(f"--threads: {threads}; this process may use {cores} cores: give at most that many")
    shared.require_sensible(options)
