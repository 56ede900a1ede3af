"""hvd-imagenet report: runs compared, as one HTML file and, if asked for, a picture."""

from __future__ import annotations

import sys
from pathlib import Path

from hvd_imagenet.arguments import Parser
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.report import page, run
from hvd_imagenet.report.accounts import plain
from hvd_imagenet.report.arms import group

DESCRIPTION = """Compare runs: errors, rate, batch, speed, norms, restarts and settings in one HTML file, which needs
nothing else and no network. Runs that differ in nothing but their seed become one arm, with mean and spread. They may
be going on."""


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet report`` with these arguments.

    Raises:
        RunError: there is no run, runs cannot be compared, or a file cannot be written.
    """
    parser = Parser(prog="hvd-imagenet report", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run, of several runs, or of a study")
    parser.add_argument(
        "-o", metavar="FILE", help="default: report.html in the folder that is given; of several, in the current one"
    )
    parser.add_argument("--png", metavar="FILE", help="errors and learning rate as a still picture, too")
    options = parser.parse_args(arguments)
    if not all(options.runs):
        raise SettingsError("RUN: is empty; give the folder of a run")  # not the current one, which it would stand for
    given = [Path(place) for place in options.runs]
    file = _named("-o", options.o, ".html") or (given[0] if len(given) == 1 else Path()) / "report.html"
    picture = _named("--png", options.png, ".png")
    found = run.find(given)
    for note in found.notes:
        print(f"warning: {note}", file=sys.stderr)
    arms = group(run.read(found.paths), found.arms)
    title = f"{plain(given[0].resolve().name)}" if len(given) == 1 else None
    page.save(page.page(arms, title, found.notes).encode(), file, "-o")
    print(f"{plain(str(file))}: {page.counted(arms)}")
    if picture:
        from hvd_imagenet.report.png import png

        page.save(png(arms, page.MADE_BY), picture, "--png")
        print(f"{plain(str(picture))}: written")


def _named(option: str, name: str | None, ending: str) -> Path | None:
    if name is None:
        return None
    if Path(name).suffix.lower() != ending:
        raise SettingsError(f"{option}: {plain(name) or 'is empty'}; give a file that ends in {ending}")
    return Path(name)
