"""The report as one HTML file that needs nothing else: figures, tables, and Plotly's own script inside."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from hvd_imagenet import __version__
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.report import colours, plots, tables
from hvd_imagenet.report import run as runs_of
from hvd_imagenet.report.accounts import plain
from hvd_imagenet.report.arms import Arm, group, warnings
from hvd_imagenet.report.figures import figures
from hvd_imagenet.report.restarts import restarts
from hvd_imagenet.report.stragglers import stragglers

ASSETS = Path(__file__).parent / "assets"
MADE_BY = "hvd-imagenet report"
MARKS = (f'<meta name="generator" content="{MADE_BY}', f"Software\0{MADE_BY}")  # of files that may be written over
HEAD = 2000  # bytes in which they stand


def write(runs: list[Path], file: Path, title: str | None = None, names: list[str] | None = None) -> None:
    """Write the report about runs.

    Args:
        runs: their folders; those that hold nothing yet are left out, and the report says so.
        file: where to; a report that is there is replaced.
        title: of the report; None: the run's name, or how many there are.
        names: the arm of each run; None: as their settings say.

    Raises:
        SettingsError: there is no run, or the file cannot be written.
        DataError: the runs are of different data sets.
    """
    if not runs:
        raise SettingsError("report: no runs; give their folders")
    there = [(run, name) for run, name in zip(runs, names or [None] * len(runs), strict=True) if runs_of.is_run(run)]
    missing = [
        f"{plain(str(run))} is left out, since no run is in there yet" for run in runs if not runs_of.is_run(run)
    ]
    if not there:
        raise SettingsError(f"report: {'; '.join(missing)}; give folders of runs")
    arms = group(runs_of.read([run for run, _ in there]), [name for _, name in there])
    save(page(arms, title, missing).encode(), file, "-o")


def page(arms: list[Arm], title: str | None, notes: list[str]) -> str:
    """The report about arms.

    Args:
        notes: beside those on the runs.
    """
    happened = restarts(arms)
    drawn = figures(arms, happened)
    shorter = plots.apart([arm.name for arm in arms], plots.NAME)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    light = colours.variables(colours.LIGHT, colours.ARMS_ON_LIGHT)
    dark = colours.variables(colours.DARK, colours.ARMS_ON_DARK)
    return environment.get_template("page.html").render(
        title=plain(title or _title(arms)),
        made_by=MADE_BY,
        version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M"),
        arms=[(arm.name, short, len(arm.runs)) for arm, short in zip(arms, shorter, strict=True)],
        sign=colours.sign,
        runs=sum(len(arm.runs) for arm in arms),
        counted=counted(arms),
        notes=[*notes, *warnings(arms), *(f"{run.label} {note}" for a in arms for run in a.runs for note in run.notes)],
        figures=drawn,
        plots={one.name: one.plot for one in drawn},
        results=tables.results(arms),
        each_run=tables.runs(arms),
        differences=tables.differences(arms),
        common=tables.common(arms),
        slowest=tables.slowest(stragglers(arms)),
        restarts=tables.restarted(happened),
        confusions=tables.confusions(arms),
        light=light,
        dark=dark,
        style=Markup((ASSETS / "page.css").read_text()),
        scripts=[Markup(script) for script in (get_plotlyjs(), (ASSETS / "page.js").read_text())],
        fingerprint=_fingerprint,
    )


def save(data: bytes, file: Path, option: str) -> None:
    """Write a file of the report, over nothing but a report.

    Args:
        option: that has named the file.

    Raises:
        SettingsError: it cannot be written, or is something else.
    """
    try:
        if file.exists() and not any(mark.encode() in _head(file) for mark in MARKS):
            raise SettingsError(
                f"{option}: {plain(str(file))}; is there and no report: name another file, or remove it"
            )
        write_whole(file, data)
    except OSError as error:
        raise SettingsError(
            f"{option}: {plain(str(file))}; cannot be written ({error.strerror}); name another file with {option}"
        ) from None


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEAD)


def counted(arms: list[Arm]) -> str:
    """How many runs there are, and how many arms."""
    count = sum(len(arm.runs) for arm in arms)
    runs = f"{count} run{'s' if count > 1 else ''}"
    return f"{runs} in {len(arms)} arm{'s' if len(arms) > 1 else ''}" if count > 1 else runs


def _title(arms: list[Arm]) -> str:
    runs = [run for arm in arms for run in arm.runs]
    return runs[0].label if len(runs) == 1 else f"Comparison of {len(runs)} runs"


def _fingerprint(script: str) -> str:
    """Of a script, by which the page's policy lets it run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
