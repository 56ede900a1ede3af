"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere, and log.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hvd_imagenet.policy import LargeBatchPolicy


class RunConsole:
    """Shows a run as it goes; for rank 0 only.

    Args:
        log: every line is also appended to this file.
        policy: for the length of the run.
    """

    def __init__(self, log: Path, policy: LargeBatchPolicy):
        self._policy = policy
        self._log = log.open("a")
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self._console, transient=True
        )
        self._task = self._bar.add_task("starting", total=policy.last_sample)
        if self._console.is_terminal:
            self._bar.start()

    def line(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self._console.print(text, markup=False)
        self._write(text)

    def step(self, values: dict[str, Any]) -> None:
        """Show a logged step, as it is written to metrics.jsonl."""
        left = (self._policy.last_sample - values["samples_seen"]) / values["images_per_second"]
        text = (
            f"epoch {values['epoch']:6.2f}/{self._policy.epochs:g}  step {values['step']}/{self._policy.total_steps}  "
            f"loss {values['loss']:.4f}  top-1 {values['top1']:6.2%}  lr {values['lr']:.4g}  "
            f"{values['images_per_second']:,.0f} images/s  {_clock(left)} left"
        )
        self._bar.update(self._task, description=text, completed=values["samples_seen"])
        self._write(text)
        if not self._console.is_terminal:
            self._console.print(text, markup=False)

    def close(self) -> None:
        self._bar.stop()
        self._log.close()

    def _write(self, text: str) -> None:
        self._log.write(text + "\n")
        self._log.flush()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
