"""A run in words: the lines that people read, and log.txt, which has them all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hvd_imagenet.metrics.appended import AppendedLines
from hvd_imagenet.metrics.journal import Listener
from hvd_imagenet.policy import LargeBatchPolicy

STRAGGLING = 1.1  # times the workers' median: a worker that takes longer is named


class Words(Listener):
    """Puts what it hears into lines.

    Args:
        policy: for the length of the run.
    """

    def __init__(self, policy: LargeBatchPolicy):
        self._policy = policy

    def line(self, text: str) -> None:
        """Where a line goes; it may have several of its own."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        self.line(text)

    def step(self, values: dict[str, Any]) -> None:
        self.line("  ".join(self.parts_of(values)))

    def evaluation(self, values: dict[str, Any]) -> None:
        self.line(
            f"epoch {values['epoch']:6.2f}/{self._policy.epochs:g}  validation: loss {values['loss']:.4f}  "
            f"top-1 {values['top1']:.2%}  top-5 {values['top5']:.2%}  of {values['count']:,} images"
        )

    def parts_of(self, values: dict[str, Any]) -> list[str]:
        """A logged step, part by part; first the epoch, then the step."""
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
        return parts


class LogFile(Words):
    """log.txt.

    Args:
        path: the file, made if it is not there; policy: for the length of the run.
    """

    def __init__(self, path: Path, policy: LargeBatchPolicy):
        super().__init__(policy)
        self._file = AppendedLines(path)

    def line(self, text: str) -> None:
        self._file.write(text)

    def failed(self, reason: str) -> None:
        self.line(f"ended: {reason}")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _clock(seconds: float) -> str:
    """Seconds as minutes:seconds, or hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
