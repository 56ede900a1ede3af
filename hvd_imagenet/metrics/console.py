"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, and log.txt."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from hvd_imagenet.metrics.appended import AppendedLines
from hvd_imagenet.metrics.journal import Listener
from hvd_imagenet.policy import LargeBatchPolicy

# Open MPI gives its workers a terminal of its own and passes on, to a file perhaps, what is written there.
RELAYED = "OMPI_COMM_WORLD_RANK"
STRAGGLING = 1.1  # times the workers' median: a worker that takes longer is named


class _LastingConsole(Console):
    """A console whose reader may go away: the run goes on, and log.txt has it all."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class RunConsole(Listener):
    """Shows a run as it goes; for rank 0 only.

    Args:
        log: every line is also appended to this file.
        policy: for the length of the run.
        console: where to show it; by default standard output.
    """

    def __init__(self, log: Path, policy: LargeBatchPolicy, console: Console | None = None):
        self._policy = policy
        self._result = log.with_name("result.json")
        self._log = AppendedLines(log)
        self._console = console or _LastingConsole()
        columns = BarColumn(bar_width=None), TextColumn("{task.description}", table_column=Column(no_wrap=True))
        self._bar = Progress(*columns, console=self._console, expand=True, transient=True)
        self._task = self._bar.add_task("starting", total=policy.last_sample)
        self._has_bar = self._console.is_terminal and RELAYED not in os.environ
        if self._has_bar:
            self._bar.start()

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        with suppress(OSError):  # as from a full disk, where the output goes to a file
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._log.write(text)

    def step(self, values: dict[str, Any]) -> None:
        left = (self._policy.last_sample - values["samples_seen"]) / values["images_per_second"]
        parts = [
            f"epoch {values['epoch']:.2f}/{self._policy.epochs:g}",
            f"step {values['step']}/{self._policy.total_steps}",
            f"loss {values['loss']:.3f}",
            f"top-1 {values['top1']:.1%}",
            f"lr {values['lr']:.3g}",
            f"{values['images_per_second']:,.0f} img/s",
            f"{_clock(left)} left",
        ]
        if values.get("slowest_seconds", 0) > STRAGGLING * values.get("median_seconds", math.inf):
            behind = values["slowest_seconds"] / values["median_seconds"] - 1
            parts.append(f"worker {values['slowest_rank']} on {values['slowest_host']} {behind:.0%} slower")
        line = "  ".join(parts)
        short = " ".join(parts[:1] + parts[2:])  # with a bar, on 80 columns
        self._bar.update(self._task, description=short, completed=values["samples_seen"])
        if self._has_bar:
            self._log.write(line)
        else:
            self.say(line)

    def evaluation(self, values: dict[str, Any]) -> None:
        self.say(
            f"epoch {values['epoch']:6.2f}/{self._policy.epochs:g}  validation: loss {values['loss']:.4f}  "
            f"top-1 {values['top1']:.2%}  top-5 {values['top5']:.2%}  of {values['count']:,} images"
        )

    def done(self, values: dict[str, Any]) -> None:
        self.say(f"done: validation top-1 {values['val_top1']:.2%}, in {self._result}")

    def failed(self, reason: str) -> None:
        self._log.write(f"ended: {reason}")

    def flush(self) -> None:
        self._log.flush()

    def close(self) -> None:
        if self._has_bar:
            self._bar.stop()
        self._log.close()


def _clock(seconds: float) -> str:
    """Seconds as minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
