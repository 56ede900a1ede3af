"""hvd-imagenet bench loader: images per second of our loader, its alternatives, and the limits of the machine."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hvd_imagenet.bench import machine, photos
from hvd_imagenet.bench.blocks import ContestantError, interleaved, started
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.loaders import IMAGE_SIZE, Task
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.host import cores_per_worker, this_place

OURS, DECODE, COPY = "ours", "decode", "copy"


@dataclass(frozen=True)
class Entry:
    """A contestant in the table.

    Attributes:
        module: of ``hvd_imagenet.bench.loaders``.
        title: what it is called in the table.
        packages: that it needs, by the name that both Python and pip know them by; this package's own are not counted.
    """

    module: str
    title: str
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """What pip has to install first."""
        return [package for package in self.packages if find_spec(package) is None]


ALTERNATIVES = {
    "dali": Entry("dali", "DALI's own pipeline"),
    "torch": Entry("torch_pil", "PyTorch DataLoader, PIL", ("torch",)),
    "tfdata": Entry("tf_data", "tf.data", ("tensorflow",)),
    "webdataset": Entry("web_dataset", "WebDataset, PIL", ("webdataset", "torch")),
}
LIMITS = {
    DECODE: Entry("jpeg_decode", "limit: libjpeg-turbo", ("simplejpeg",)),
    COPY: Entry("memory_copy", "limit: memory copy"),
}
ENTRIES = {OURS: Entry("ours", "hvd-imagenet"), **ALTERNATIVES, **LIMITS}
DISTRIBUTIONS = ["hvd-imagenet", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "numpy", "pillow", "torch", "tensorflow"]
DISTRIBUTIONS += ["tensorflow-cpu", "webdataset", "simplejpeg"]

DESCRIPTION = f"""Images per second from files to float32 arrays: our loader, its alternatives, and what the machine
could do at best. All read the same photos from the page cache, take a random-resized crop of each to {IMAGE_SIZE} x
{IMAGE_SIZE}, flip half of them and normalise, with the same resampling, on as many cores as threads. Each has a process
of its own, and a turn in every round; the others are stopped meanwhile. Shown are medians of the rounds with their 95 %
intervals, and for each contestant the median of the rounds' ratios, ours / its own."""


def add_to(commands) -> None:
    """Add the command's options to the commands of ``hvd-imagenet bench``."""
    parser = commands.add_parser("loader", help="images per second, against other loaders", description=DESCRIPTION)
    parser.add_argument(
        "--data", metavar="PATH", type=Path, required=True, help="a packed data set, or a folder with train/CLASS/*"
    )
    parser.add_argument(
        "--against",
        metavar="A,B",
        help=f"of {','.join(ALTERNATIVES)} (default: those that are installed); the limits are always there",
    )
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
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", metavar="S", type=float, default=2, help="of a turn (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="all figures, with machine and versions")
    parser.set_defaults(command=run)


def run(options: Namespace) -> None:
    """Measure, and show and write what was found.

    Raises:
        SettingsError: an option is out of range, or an alternative that was asked for is not installed.
        DataError: no photos, or a contestant failed on them.
    """
    cores = cores_per_worker([this_place(None)], 0)
    threads = cores if options.threads is None else options.threads
    _require_sensible(options, threads, cores)
    names = _contestants(options.against)
    console = Console(highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        tempfile.TemporaryDirectory(prefix="hvd-imagenet-bench-") as folder,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        store, numbers = photos.chosen(options.data, options.images)
        shown = bar.add_task("laying out the photos", total=len(names) * (options.rounds + 1))
        count, shards = photos.lay_out(store, numbers, Path(folder), threads)
        if count < options.batch:
            raise SettingsError(f"--batch: {options.batch}; there are {count} photos that all can read: give no more")
        task = Task(folder, shards, threads, options.batch, options.resampling == "antialiased")

        def starting(name: str) -> None:
            bar.update(shown, description=f"starting {ENTRIES[name].title}", advance=1)

        def measuring(number: int, name: str) -> None:
            bar.update(shown, description=f"round {number + 1}: {ENTRIES[name].title}", advance=1)

        modules = {name: ENTRIES[name].module for name in names}
        try:
            with started(modules, task, starting) as contestants:
                speeds = interleaved(contestants, options.rounds, options.seconds, measuring)
        except ContestantError as error:
            raise DataError(f"bench loader: {error}") from None
    settings = {"data": str(options.data), "photos": count, "threads": threads, "batch": options.batch}
    settings |= {"resampling": options.resampling, "rounds": options.rounds, "seconds": options.seconds}
    report = {
        "bench": "loader",
        "settings": settings,
        "machine": machine.description(),
        "versions": machine.versions(DISTRIBUTIONS),
        "results": results(speeds, threads),
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    show(report, console)


def results(speeds: dict[str, list[float]], threads: int) -> dict[str, dict]:
    """Of each entry: what it lacks, its images per second, in all and per core, and ours / its own, round by round."""
    found = {}
    for name, entry in ENTRIES.items():
        found[name] = {"title": entry.title, "missing": entry.missing()}
        if name in speeds:
            per_core = [speed / threads for speed in speeds[name]]
            ratios = [our / its for our, its in zip(speeds[OURS], speeds[name], strict=True)]
            found[name] |= {"images_per_second": asdict(Figure.of(speeds[name]))}
            found[name] |= {"per_core": asdict(Figure.of(per_core)), "ours_to_it": asdict(Figure.of(ratios))}
    return found


def show(report: dict, console: Console) -> None:
    """The report as a table."""
    settings = report["settings"]
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    table = Table(
        title=f"{settings['photos']:,} photos, {threads}, batches of {settings['batch']}, "
        f"{settings['resampling']} resampling, {settings['rounds']} rounds of {settings['seconds']:g} s",
        caption=f"medians with their 95 % intervals; {report['machine']['processor']}",
    )
    for column, justify in (("", "left"), ("images/s per core", "right"), ("ours / its own", "right")):
        table.add_column(column, justify=justify)
    for name, found in report["results"].items():
        if name == DECODE:
            table.add_section()
        if "per_core" in found:
            ratio = "" if name == OURS else _cell(found["ours_to_it"], ".3f")
            table.add_row(found["title"], _cell(found["per_core"], ",.0f"), ratio)
        else:
            table.add_row(found["title"], "not installed" if found["missing"] else "not asked for", "")
    console.print(table)
    decode = report["results"][DECODE].get("ours_to_it")
    if decode:
        console.print(f"ours: {decode['median']:.0%} of the decode limit (whole images, nothing else)")
    missing = sorted({package for found in report["results"].values() for package in found["missing"]})
    if missing:
        console.print(f"for those that are not installed: pip install {' '.join(missing)}")


def _cell(figure: dict, form: str) -> str:
    return f"{figure['median']:{form}} ({figure['low']:{form}} – {figure['high']:{form}})"


def _contestants(against: str | None) -> list[str]:
    """The names of all who take part.

    Raises:
        SettingsError: an alternative is unknown, or is asked for and not installed.
    """
    asked = list(ALTERNATIVES) if against is None else [name for name in against.split(",") if name]
    for name in asked:
        if name not in ALTERNATIVES:
            raise SettingsError(f"--against: {name}; known: {', '.join(ALTERNATIVES)}")
        if against is not None and ALTERNATIVES[name].missing():
            missing = ALTERNATIVES[name].missing()
            raise SettingsError(f"--against: {name} is not installed; run: pip install {' '.join(missing)}")
    return [name for name in (OURS, *asked, *LIMITS) if not ENTRIES[name].missing()]


def _require_sensible(options: Namespace, threads: int, cores: int) -> None:
    for name, value in (("threads", threads), ("batch", options.batch), ("images", options.images)):
        if value < 1:
            raise SettingsError(f"--{name}: {value}; give a number above 0")
    if threads > cores:
        raise SettingsError(f"--threads: {threads}; this process may use {cores} cores: give at most that many")
    if options.rounds < 1:
        raise SettingsError(f"--rounds: {options.rounds}; give a number above 0")
    if not options.seconds > 0:
        raise SettingsError(f"--seconds: {options.seconds}; give a number above 0")
    if options.json and options.json.is_dir():
        raise SettingsError(f"--json: {options.json}; is a folder; give the name of a file")
    if options.json and not options.json.resolve().parent.is_dir():
        raise SettingsError(f"--json: {options.json}; its folder does not exist")
