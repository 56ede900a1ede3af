"""How a bench goes and what comes of it: the bar that shows how far it is, the report, and the cells of its table."""

from __future__ import annotations

import json
import random
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
TAKEN_BY = "rounds", "starts", "seconds"  # the options that say how they are taken
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
        self._started = 0  # times

    def measure(
        self,
        crews: Mapping[str, Crew],
        titles: Mapping[str, str],
        asked: Sequence[Any] = (None,),
        error: type[RunError] = RunError,
        rounds: int | None = None,
        starts: int = 1,
    ) -> dict[str, list[list[list[Answer]]]]:
        """See ``blocks.interleaved``.

        Args:
            titles: of the contestants, by name.
            error: raised if one of them ends.
            rounds: None: as many as asked for.
            starts: how often all of them are started, in an order by chance; the rounds are shared out over these.
        """
        rounds, dice = rounds or self._options.rounds, random.Random(0)
        self._bar.reset(self._shown, total=len(crews) * (starts + rounds * len(asked)))
        found: dict[str, list[list[list[Answer]]]] = {name: [[] for _ in asked] for name in crews}
        for start in range(starts):
            order = dice.sample(list(crews), len(crews))
            mine = range(rounds * start // starts, rounds * (start + 1) // starts)
            answered = self._of_a_start({name: crews[name] for name in order}, titles, asked, error, mine, dice)
            for name, of_name in answered.items():
                for all_rounds, these in zip(found[name], of_name, strict=True):
                    all_rounds += these
        return found

    def _of_a_start(
        self,
        crews: Mapping[str, Crew],
        titles: Mapping[str, str],
        asked: Sequence[Any],
        error: type[RunError],
        rounds: range,
        dice: random.Random,
    ) -> dict[str, list[list[list[Answer]]]]:
        self._started += 1
        folder = self.folder / str(self._started)
        folder.mkdir()

        def starting(name: str) -> None:
            self._bar.update(self._shown, description=f"starting {titles[name]}", advance=1)

        def measuring(number: int, name: str) -> None:
            self._bar.update(self._shown, description=f"round {rounds[number] + 1}: {titles[name]}", advance=1)

        try:
            with started(crews, folder, asked[0], starting) as contestants:
                return interleaved(contestants, len(rounds), self._options.seconds, measuring, asked, dice)
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
        "settings": {**settings, **{name: getattr(options, name) for name in TAKEN_BY if name in options}},
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


def turns(told: Mapping[str, Any]) -> str:
    """How they were taken, such as "20 rounds of 2 s over 4 starts"."""
    starts = told.get("starts", 1)
    return f"{told['rounds']} rounds of {told['seconds']:g} s{f' over {starts} starts' if starts > 1 else ''}"


def counted(number: int, what: str) -> str:
    """Such as "1 thread" and "2 threads"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
