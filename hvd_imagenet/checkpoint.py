"""Checkpoints of a run: each is whole or not there, and proves on loading that it is what was saved."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from hvd_imagenet.backend import State
from hvd_imagenet.durable import flush_folder, write_flushed, write_whole
from hvd_imagenet.errors import CheckpointError

FORMAT = 2
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
MISSING = FileNotFoundError, IsADirectoryError, NotADirectoryError  # other errors may pass
NEWER = {"trained"}  # fields that checkpoints of this format did not have at first
UNFINISHED, UNUSABLE = ".partial", ".unusable"  # suffixes of folders that are not checkpoints


@dataclass
class Progress:
    """Where a run is. With the settings' seed this is its random state, too: all randomness is a function of both.

    Attributes:
        step: finished steps.
        samples_seen: samples taken by them: the run's clock.
        train_seconds: time spent in steps; wall_seconds: altogether; both over all restarts.
        evaluations: of the run so far: step, epoch, loss, top1, top5, count, and train_loss, train_top1, train_top5.
        evaluation_due: the weights at this step are still to be evaluated.
        trained: since the last evaluation: summed loss, top-1, top-5, and number of samples.
    """

    step: int = 0
    samples_seen: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    evaluation_due: bool = False
    trained: list[float] = field(default_factory=lambda: [0.0, 0, 0, 0])


def save(folder: Path, state: State, progress: Progress, settings: dict[str, Any]) -> Path:
    """Write ``folder/step-NNNNNNNN``.

    Args:
        settings: the run's settings, kept beside the state.

    Raises:
        CheckpointError: it cannot be written; the checkpoints that are there stay.
    """
    final = path_of(folder, progress.step)
    partial = final.with_name(final.name + UNFINISHED)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = {MODEL: safetensors.numpy.save(state.model), OPTIMIZER: safetensors.numpy.save(state.momentum)}
        checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        files[STATE] = _sealed(
            {"format": FORMAT, **dataclasses.asdict(progress), "config": settings, "checksums": checksums}
        )
        for name, data in files.items():
            write_flushed(partial / name, data)
        flush_folder(partial)
        if final.exists():
            set_aside(final)
        partial.rename(final)
        flush_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "look after its file system"
        raise CheckpointError(f"{final}: cannot be written ({error.strerror}); {remedy}") from None
    return final


def note(folder: Path, progress: Progress) -> None:
    """Bring the progress in the checkpoint of the same step up to date, if there is one: it has been evaluated.

    Raises:
        CheckpointError: it cannot be written; the checkpoint is as it was.
    """
    path = path_of(folder, progress.step) / STATE
    if path.exists():
        try:
            write_whole(path, _sealed({**json.loads(path.read_text()), **dataclasses.asdict(progress)}))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be brought up to date ({error})") from None


def prune(folder: Path, keep: int, evaluations: list[dict[str, Any]]) -> None:
    """Remove all but the newest `keep` checkpoints and the one with the best top-1 accuracy of those evaluated."""
    paths = checkpoints(folder)
    best = best_of(paths, evaluations)
    for path in paths[:-keep]:
        if path != best:
            shutil.rmtree(path, ignore_errors=True)


def best_of(paths: list[Path], evaluations: list[dict[str, Any]]) -> Path | None:
    """The checkpoint with the best top-1 accuracy, the first of equals; None: none of them has been evaluated."""
    top1 = {path_of(path.parent, event["step"]): event["top1"] for path in paths[:1] for event in evaluations}
    return max((path for path in paths if path in top1), key=top1.get, default=None)


def remove(folder: Path, step: int) -> None:
    """Remove the checkpoint of a step, if there is one."""
    shutil.rmtree(path_of(folder, step), ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what saves that were cut short have left; for who holds the run's lock."""
    for path in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(path, ignore_errors=True)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first; nothing else, such as somebody's copy of one."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def require_any(folder: Path) -> None:
    """Raise CheckpointError unless there is a checkpoint in a folder, usable or not."""
    if not checkpoints(folder):
        raise CheckpointError(f"{folder}: holds no checkpoint; the run has not got so far")


def load(folder: Path, skipped: Callable[[Path, CheckpointError], None]) -> tuple[State, Progress, dict[str, Any]]:
    """The newest usable checkpoint in a folder: its state, where the run was, and the run's settings.

    Args:
        skipped: called with each newer one that is damaged, and what is wrong with it.

    Raises:
        CheckpointError: there is none, or one cannot be read just now.
    """
    wrong = []
    for path in reversed(checkpoints(folder)):
        try:
            return _read(path)
        except _DamagedError as error:
            wrong.append(str(error))
            skipped(path, error)
    raise CheckpointError(
        f"{folder}: holds no usable checkpoint ({'; '.join(wrong) or 'none at all'}); copy one back, or start again in "
        "another folder with --run"
    )


def load_one(path: Path) -> tuple[State, Progress, dict[str, Any]]:
    """One checkpoint: its state, where the run was, and the run's settings.

    Raises:
        CheckpointError: it is none, or not usable.
    """
    if not os.path.exists(path / STATE):  # which raises nothing, whatever the name
        raise CheckpointError(f"{path}: is no checkpoint (has no {STATE}); give the folder of one")
    return _read(path)


def best(folder: Path) -> Path:
    """The checkpoint that did best in the evaluations that those in a folder know of.

    Raises:
        CheckpointError: none of them has been evaluated.
    """
    paths, evaluations = checkpoints(folder), []
    for path in paths:
        with suppress(_DamagedError), _readable(path):  # those after it know as much
            evaluations += _described(path)["evaluations"]
    found = best_of(paths, evaluations)
    if found is None:
        raise CheckpointError(f"{folder}: of no checkpoint is an evaluation known; give --checkpoint last")
    return found


def set_aside(path: Path) -> None:
    """Rename a checkpoint that is not usable, so that it neither counts nor is lost.

    Raises:
        CheckpointError: it cannot be renamed.
    """
    aside = path.with_name(path.name + UNUSABLE)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be set aside ({error.strerror})") from None


class _DamagedError(CheckpointError):
    """A checkpoint is not what was saved: the one before is to be used."""


def _read(path: Path) -> tuple[State, Progress, dict[str, Any]]:
    """A checkpoint.

    Raises:
        CheckpointError: it cannot be read just now; _DamagedError: it never can.
    """
    with _readable(path):
        description = _described(path)
        arrays = {}
        for name in (MODEL, OPTIMIZER):
            data = (path / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != description["checksums"][name]:
                raise _DamagedError(f"{path / name}: damaged, not what was saved")
            arrays[name] = safetensors.numpy.load(data)
        fields = [name.name for name in dataclasses.fields(Progress)]
        progress = Progress(**{name: description[name] for name in fields if name in description or name not in NEWER})
        settings = dict(description["config"])
    return State(arrays[MODEL], arrays[OPTIMIZER]), progress, settings


def _described(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    description = json.loads((path / STATE).read_text())
    if description["format"] != FORMAT:
        raise _DamagedError(f"{path}: is of format {description['format']}, this version reads {FORMAT}")
    if description["checksum"] != _checksum(description):
        raise _DamagedError(f"{path / STATE}: damaged, not what was saved")
    return description


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong in reading a checkpoint, as what it means."""
    try:
        yield
    except (*MISSING, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise _DamagedError(f"{path}: unreadable ({error!r})") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); look after its file system and run again, or move it away to "
            "go on from the one before"
        ) from None


def _sealed(description: dict[str, Any]) -> bytes:
    """A description as JSON, with a checksum of itself."""
    description = json.loads(json.dumps(description))  # with keys and lists as they will be read
    return json.dumps({**description, "checksum": _checksum(description)}, indent=1).encode()


def _checksum(description: dict[str, Any]) -> str:
    rest = {key: value for key, value in description.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
