"""How a bench goes and what comes of it: the bar that shows how far it is, the report, and the cells of its table."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvd_imagenet.bench import machine
from hvd_imagenet.bench.blocks import interleaved, started
from hvd_imagenet.bench.contestant import ContestantError, Crew
from hvd_imagenet.bench.work import Answer
from hvd_imagenet.errors import RunError

WIDTH = 140  # columns, where there is no terminal
FOOTNOTE = "medians with their 95 % intervals"


class Bench:
    """A bench that goes on.

    Attributes:
        folder: for its files, which are gone at its end.
        console: that the table goes to.
    """

    def __init__(self, command: str, options: Any, folder: Path, console: Console, bar: Progress):
        self._command, self._options, self._bar = command, options, bar
        self.folder, self.console = folder, console
        self._shown = bar.add_task("preparing", total=None)
        self._measured = 0  # times

    def measure(
        self,
        crews: Mapping[str, Crew],
        titles: Mapping[str, str],
        asked: Sequence[Any] = (None,),
        error: type[RunError] = RunError,
        rounds: int | None = None,
    ) -> dict[str, list[list[list[Answer]]]]:
        """See ``blocks.interleaved``.

        Args:
            titles: of the contestants, by name.
            error: raised if one of them ends.
            rounds: None: as many as asked for.
        """
        rounds = rounds or self._options.rounds
        self._bar.reset(self._shown, total=len(crews) * (1 + rounds * len(asked)))
        self._measured += 1
        folder = self.folder / str(self._measured)
        folder.mkdir()

        def starting(name: str) -> None:
            self._bar.update(self._shown, description=f"starting {titles[name]}", advance=1)

        def measuring(number: int, name: str) -> None:
            self._bar.update(self._shown, description=f"round {number + 1}: {titles[name]}", advance=1)

        try:
            with started(crews, folder, asked[0], starting) as contestants:
                return interleaved(contestants, rounds, self._options.seconds, measuring, asked)
        except ContestantError as ended:
            raise error(f"{self._command}: {ended}") from None


@contextmanager
def going_on(command: str, options: Any) -> Iterator[Bench]:
    """A bench, with a bar in a terminal that shows how far it is."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        tempfile.TemporaryDirectory(prefix="hvd-imagenet-bench-") as folder,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        yield Bench(command, options, Path(folder), console, bar)


def written(
    kind: str, settings: dict[str, Any], options: Any, distributions: list[str], parts: dict[str, Any]
) -> dict[str, Any]:
    """The report, written to the file that --json names, if it does.

    Args:
        distributions: whose versions count.
        parts: ``results``, as ``hvd_imagenet.planner.measured`` reads them, and others.
    """
    report = {
        "bench": kind,
        "settings": {**settings, "rounds": options.rounds, "seconds": options.seconds},
        "machine": machine.description(),
        "versions": machine.versions(distributions),
        **parts,
    }
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")
    return report


def cell(figure: Mapping[str, Any], form: str) -> str:
    """A figure, as a table shows it."""
    return f"{figure['median']:{form}} ({figure['low']:{form}} – {figure['high']:{form}})"


def counted(number: int, what: str) -> str:
    """Such as "1 thread" and "2 threads"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
