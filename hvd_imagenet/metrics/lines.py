"""metrics.jsonl: one JSON object per line; steps and evaluations in the order of the steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hvd_imagenet.metrics.appended import AppendedLines, keep_lines
from hvd_imagenet.metrics.journal import Listener


class MetricsLines(Listener):
    """Appends events to a file.

    Args:
        path: the file, made if it is not there.
        up_to_step: lines of later steps are cut off, since a resumed run writes them again. Restarts stay.
        evaluated: that step's evaluation is not to come again.
    """

    def __init__(self, path: Path, up_to_step: int, evaluated: bool = True):
        last = {"step": up_to_step, "eval": up_to_step if evaluated else up_to_step - 1}
        keep_lines(path, lambda line: (e := _event(line)) is not None and e["step"] <= last.get(e["event"], math.inf))
        self._file = AppendedLines(path)

    def step(self, values: dict[str, Any]) -> None:
        self._write("step", values)

    def evaluation(self, values: dict[str, Any]) -> None:
        self._write("eval", values)

    def restart(self, values: dict[str, Any]) -> None:
        self._write("restart", values)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: str, values: dict[str, Any]) -> None:
        self._file.write(_line({"event": event, **values}))


def read(path: Path) -> list[dict[str, Any]]:
    """The events in a file; a line that was cut short by a crash is left out."""
    events = map(_event, path.read_text(errors="replace").splitlines())
    return [event for event in events if event is not None]


def _event(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, allow_nan=False)
