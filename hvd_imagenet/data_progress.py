"""How far the work on a data set is: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 30  # between two lines in a log

Update = Callable[[str, int, int], None]  # told a split, its images done, and those of them that were left out


@contextmanager
def shown(counts: dict[str, int]) -> Iterator[Update]:
    """Show how far each split is; on the error output, which under mpirun is no terminal.

    Args:
        counts: how many images each split has.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield _Lines(console, counts)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[rejected]}"), console=console, transient=True) as bar:
        tasks = {split: bar.add_task(split, total=count, rejected="") for split, count in counts.items()}

        def update(split: str, images: int, rejected: int) -> None:
            bar.update(tasks[split], completed=images, rejected=_left_out(rejected))

        yield update


def _left_out(rejected: int) -> str:
    return f"{rejected:,} left out" if rejected else ""


class _Speed(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class _Lines:
    """A line of text for all splits together."""

    def __init__(self, console: Console, counts: dict[str, int]):
        self._console, self._counts = console, counts
        self._done = dict.fromkeys(counts, 0)
        self._rejected = dict.fromkeys(counts, 0)
        self._began: tuple[float, int] | None = None  # seconds and images; an earlier packing may have done some
        self._said = time.monotonic()

    def __call__(self, split: str, images: int, rejected: int) -> None:
        self._done[split], self._rejected[split] = images, rejected
        now, done, total = time.monotonic(), sum(self._done.values()), sum(self._counts.values())
        self._began = self._began or (now, done)
        if now - self._said < LINE_SECONDS:
            return
        self._said = now
        speed = (done - self._began[1]) / (now - self._began[0])
        left = f", {timedelta(seconds=round((total - done) / speed))} left" if speed else ""
        out = _left_out(sum(self._rejected.values()))
        self._console.print(
            f"{done:,} of {total:,} images, {speed:,.0f} images/s{left}{', ' if out else ''}{out}", markup=False
        )
