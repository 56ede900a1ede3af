"""metrics.jsonl: one JSON object per line, in the order of the steps."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


class MetricsLines:
    """Appends events to a file.

    Args:
        path: the file, made if it is not there.
        up_to_step: lines of later steps are cut off: a resumed run writes them again.
    """

    def __init__(self, path: Path, up_to_step: int):
        kept = [event for event in read(path) if event["step"] <= up_to_step] if path.exists() else []
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text("".join(map(_line, kept)))
        partial.replace(path)
        self._file = path.open("a")

    def write(self, event: str, values: dict[str, Any]) -> None:
        """Append an event; it can be read by others from then on."""
        self._file.write(_line({"event": event, **values}))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The events in a file; a line that was cut short by a crash is left out."""
    events = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            events.append(json.loads(line))
    return events


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, allow_nan=False) + "\n"
