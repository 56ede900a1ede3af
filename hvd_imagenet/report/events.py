"""metrics.jsonl as columns of numbers, fast; what is damaged, unknown or still being written is left out."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

Columns = dict[str, np.ndarray]

NUMBERS = ("step", "samples_seen", "epoch", "top1", "top5", "count", "train_top1", "lr", "global_batch")
NUMBERS += ("images_per_second", "grad_norm", "weight_norm", "workers", "workers_before")
NUMBERS += ("data_seconds", "compute_seconds", "communication_seconds")
NUMBERS += ("slowest_rank", "slowest_seconds", "median_seconds")
TEXTS = ("event", "time", "reason", "slowest_host")
NEEDED = {"step": ("step", "epoch"), "eval": ("step", "epoch", "top1"), "restart": ("step",)}
LONGEST_LINE = 2**22  # bytes; a longer one goes the slow way
LARGEST = 1e100  # of numbers, so that squares are numbers, too; NaN and infinity are none
_SCHEMA = pa.schema([*((name, pa.float64()) for name in NUMBERS), *((name, pa.string()) for name in TEXTS)])


@dataclass(frozen=True)
class Events:
    """What a run has logged.

    Attributes:
        steps, evaluations: values by key, float64 arrays of one length, in the order of the lines; NaN: not given.
        slowest_hosts: of each step the slowest worker's host, or None.
        restarts: values by key; those not given are None.
        damaged: lines that are left out since they cannot be read.
        cut_short: whether the last line is, which is no damage as long as the run is being written.
    """

    steps: Columns
    evaluations: Columns
    slowest_hosts: np.ndarray
    restarts: list[dict[str, Any]]
    damaged: int
    cut_short: bool


def read(path: Path) -> Events:
    """The events in a file; none if there is none.

    Raises:
        OSError: it cannot be read.
    """
    data = path.read_bytes() if path.exists() else b""
    end = data.rfind(b"\n") + 1
    cut_short = end < len(data) and _event(data[end:]) is None
    lines = data[:end] if cut_short else data
    damaged = 0
    try:
        return Events(*_parsed(lines), damaged, cut_short)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        lines, damaged = _mended(lines)
        return Events(*_parsed(lines), damaged, cut_short)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _parsed(lines: bytes) -> tuple[Columns, Columns, np.ndarray, list[dict[str, Any]]]:
    """Steps, evaluations, hosts, restarts; pyarrow takes a third of the time that the json module does."""
    how = pa.json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
    one_thread = pa.json.ReadOptions(use_threads=False, block_size=LONGEST_LINE)
    table = pa.json.read_json(io.BytesIO(lines.strip() or b"{}"), read_options=one_thread, parse_options=how)
    numbers = {name: _numbers(table[name]) for name in NUMBERS}
    events = _texts(table["event"])
    chosen = {}
    for kind, needed in NEEDED.items():
        chosen[kind] = (events == kind) & np.all([np.isfinite(numbers[name]) for name in needed], axis=0)
    steps, evaluations = ({name: of[chosen[kind]] for name, of in numbers.items()} for kind in ("step", "eval"))
    restarts = [table.slice(place, 1).to_pylist()[0] for place in np.flatnonzero(chosen["restart"])]
    return steps, evaluations, _texts(table["slowest_host"])[chosen["step"]], restarts


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column's numbers, NaN where there is none."""
    array = column.combine_chunks()
    values = _memory(array, np.float64)
    there = np.abs(values) < LARGEST
    if array.null_count:
        bits = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), bitorder="little")
        there &= bits[array.offset : array.offset + len(array)].astype(bool)
    return np.where(there, values, np.nan)


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """A column's texts, None where there is none."""
    coded = column.dictionary_encode(null_encoding="encode").combine_chunks()
    return np.array([*coded.dictionary.to_pylist(), None], object)[_memory(coded.indices, np.int32)]


def _memory(array: pa.Array, kind: type) -> np.ndarray:
    """An array's own values, whatever stands where there is none; ``to_numpy`` loads pandas first, if there is one."""
    return np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]


def _mended(lines: bytes) -> tuple[bytes, int]:
    """The lines with nothing in them that stops a strict reader, and how many are no events at all."""
    events = [_event(line) for line in lines.split(b"\n") if line.strip()]
    kept = [json.dumps(event) for event in events if event is not None]
    return "\n".join(kept).encode(), len(events) - len(kept)


def _event(line: bytes) -> dict[str, Any] | None:
    """An event's values as far as they are known and of the right type; None: this is none."""
    try:
        event = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    numbers = {name: event[name] for name in NUMBERS if is_number(event.get(name))}
    texts = {name: event[name] for name in TEXTS if isinstance(event.get(name), str)}
    return {**numbers, **{name: text.encode(errors="replace").decode() for name, text in texts.items()}}
