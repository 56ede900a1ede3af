"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from hvd_imagenet.metrics.words import Words
from hvd_imagenet.policy import LargeBatchPolicy

# Open MPI gives its workers a terminal of its own and passes on, to a file perhaps, what is written there.
RELAYED = "OMPI_COMM_WORLD_RANK"


class _LastingConsole(Console):
    """A console whose reader may go away: the run goes on, and log.txt has it all."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class RunConsole(Words):
    """Shows a run as it goes.

    Args:
        policy: for the length of the run.
        console: where to show it; by default standard output.
    """

    waited_for = False  # it may be a terminal that somebody has halted, or a pager

    def __init__(self, policy: LargeBatchPolicy, console: Console | None = None):
        super().__init__(policy)
        self._console = console or _LastingConsole()
        columns = BarColumn(bar_width=None), TextColumn("{task.description}", table_column=Column(no_wrap=True))
        self._bar = Progress(*columns, console=self._console, expand=True, transient=True)
        self._task = self._bar.add_task("starting", total=policy.last_sample)
        self._has_bar = self._console.is_terminal and RELAYED not in os.environ
        if self._has_bar:
            self._bar.start()

    def line(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        with suppress(OSError):  # as from a full disk, where the output goes to a file
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, values: dict[str, Any]) -> None:
        epoch, _, *others = self.parts_of(values)
        short = " ".join([epoch, *others])  # with a bar, on 80 columns
        self._bar.update(self._task, description=short, completed=values["samples_seen"])
        if not self._has_bar:
            super().step(values)

    def close(self) -> None:
        if self._has_bar:
            self._bar.stop()
