"""Checkpoints of a run: written beside, flushed to disk, then renamed, so that each is whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from hvd_imagenet.backend import State
from hvd_imagenet.errors import CheckpointError

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: finished steps.
        samples_seen: samples taken by them: the run's clock.
        train_seconds: time spent in steps; wall_seconds: altogether; both over all restarts.
    """

    step: int = 0
    samples_seen: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0


def save(folder: Path, state: State, progress: Progress, settings: dict[str, Any], keep: int) -> Path:
    """Write ``folder/step-NNNNNNNN`` and remove all but the newest `keep`.

    Args:
        settings: the run's settings, kept beside the state.
    """
    final = folder / f"step-{progress.step:08d}"
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = {MODEL: safetensors.numpy.save(state.model), OPTIMIZER: safetensors.numpy.save(state.momentum)}
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    description = {"format": FORMAT, **dataclasses.asdict(progress), "config": settings, "checksums": checksums}
    files[STATE] = json.dumps(description, indent=1).encode()
    for name, data in files.items():
        _write(partial / name, data)
    _flush(partial)
    replaced = folder / f"{final.name}.replaced.partial"
    if final.exists():  # of the same step, from before a restart
        final.rename(replaced)
    partial.rename(final)
    _flush(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")


def load(folder: Path) -> tuple[State, Progress, dict[str, Any]]:
    """The newest checkpoint in a folder: its state, where the run was, and the run's settings.

    Raises:
        CheckpointError: there is none, or it is damaged or of another format.
    """
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder}: holds no checkpoint")
    newest = found[-1]
    try:
        description = json.loads((newest / STATE).read_text())
        if description["format"] != FORMAT:
            raise CheckpointError(f"{newest}: format {description['format']}, this version reads {FORMAT}")
        arrays = {}
        for name in (MODEL, OPTIMIZER):
            data = (newest / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != description["checksums"][name]:
                raise CheckpointError(f"{newest / name}: damaged; remove {newest} to go on from the one before")
            arrays[name] = safetensors.numpy.load(data)
        progress = Progress(**{field.name: description[field.name] for field in dataclasses.fields(Progress)})
        settings = dict(description["config"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{newest}: unreadable ({error!r}); remove it to go on from the one before") from None
    return State(arrays[MODEL], arrays[OPTIMIZER]), progress, settings


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
