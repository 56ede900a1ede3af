"""metrics.jsonl: one JSON object per line; steps and evaluations in the order of the steps."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from hvd_imagenet.durable import write_whole
from hvd_imagenet.metrics.appended import AppendedLines
from hvd_imagenet.metrics.journal import Listener


class MetricsLines(Listener):
    """Appends events to a file.

    Args:
        path: the file, made if it is not there.
        up_to_step: lines of later steps are cut off, since a resumed run writes them again. Restarts stay.
        evaluated: that step's evaluation is not to come again.
    """

    def __init__(self, path: Path, up_to_step: int, evaluated: bool = True):
        written = path.read_text(errors="replace") if path.exists() else ""
        last = {"step": up_to_step, "eval": up_to_step if evaluated else up_to_step - 1, "restart": math.inf}
        kept = [event for event in read(path) if event["step"] <= last[event["event"]]] if written else []
        text = "".join(f"{_line(event)}\n" for event in kept)
        if text != written:
            write_whole(path, text.encode())
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
    events = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, allow_nan=False)
