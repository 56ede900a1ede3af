"""The journal of a run: everything it tells goes to metrics.jsonl, log.txt and the console."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hvd_imagenet.metrics.console import RunConsole
from hvd_imagenet.metrics.lines import MetricsLines
from hvd_imagenet.policy import LargeBatchPolicy


class NoJournal:
    """The journal of all workers but the first: nothing is written."""

    def say(self, text: str) -> None:
        """A line for people."""

    def record(self, text: str) -> None:
        """A line that is shown elsewhere, and belongs into log.txt."""

    def step(self, values: dict[str, Any]) -> None:
        """A logged step."""

    def evaluation(self, values: dict[str, Any]) -> None:
        """An evaluation."""

    def restart(self, values: dict[str, Any]) -> None:
        """The run goes on from a checkpoint."""

    def flush(self) -> None:
        """Bring what has been told to the disk."""

    def close(self) -> None:
        """Nothing more comes."""


class Journal(NoJournal):
    """The journal of rank 0.

    Args:
        metrics, log: paths of metrics.jsonl and log.txt.
        policy: for the length of the run.
        from_step: steps finished before; lines about later ones are cut, since they come again.
        evaluated: and so is that step's evaluation.
    """

    def __init__(self, metrics: Path, log: Path, policy: LargeBatchPolicy, from_step: int, evaluated: bool):
        self._epochs = policy.epochs
        self._lines = MetricsLines(metrics, from_step, evaluated)
        self._console = RunConsole(log, policy)

    def say(self, text: str) -> None:
        self._console.line(text)

    def record(self, text: str) -> None:
        self._console.record(text)

    def step(self, values: dict[str, Any]) -> None:
        self._lines.write("step", values)
        self._console.step(values)

    def evaluation(self, values: dict[str, Any]) -> None:
        self._lines.write("eval", values)
        self._console.line(
            f"epoch {values['epoch']:6.2f}/{self._epochs:g}  validation: loss {values['loss']:.4f}  "
            f"top-1 {values['top1']:.2%}  top-5 {values['top5']:.2%}  of {values['count']:,} images"
        )

    def restart(self, values: dict[str, Any]) -> None:
        self._lines.write("restart", values)

    def flush(self) -> None:
        self._lines.flush()

    def close(self) -> None:
        self._console.close()
        self._lines.close()
