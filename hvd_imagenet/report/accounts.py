"""The small files of a run's folder: settings, state, outcome, evaluation; each as far as it can be read."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hvd_imagenet.checkpoint import STATE, checkpoints
from hvd_imagenet.config import Config
from hvd_imagenet.config.flat import flat
from hvd_imagenet.errors import in_one_line
from hvd_imagenet.report.events import is_number
from hvd_imagenet.run_directory import RunDirectory

LONGEST = 300  # characters of a text from a file
LIFE_SECONDS = 120  # a job sets the time of its lock every 2 seconds; a file server may tell of it a minute late
DEFAULTS = flat(dataclasses.asdict(Config()))


class State(NamedTuple):
    """What has become of a run.

    Attributes:
        word: done, running, silent (said to be running, but shows no sign of life), stopped, failed, or unknown.
        reason: why, if somebody has written it down.
    """

    word: str
    reason: str = ""


class ClassResult(NamedTuple):
    """One class in an evaluation; the accuracy is a fraction."""

    name: str
    top1: float


class Confusion(NamedTuple):
    """Images of one class taken for another; the share is of all of the class."""

    name: str
    taken_for: str
    count: float
    share: float


class Evaluation(NamedTuple):
    """What ``hvd-imagenet evaluate`` has written about a run."""

    checkpoint: str
    step: float | None
    split: str
    classes: list[ClassResult]
    confusions: list[Confusion]


class Accounts(NamedTuple):
    """What the small files of a run's folder say.

    Attributes:
        settings: by their dotted keys, with the defaults for those not given; None: unknown.
        state: what has become of the run.
        result: result.json.
        workers: of the job that ran last, by status.json; None: unknown.
        evaluation: None: there is none.
        contents: checksum of the training set; None: unknown.
        notes: on what could not be read.
    """

    settings: dict[str, Any] | None
    state: State
    result: dict[str, Any]
    workers: int | None
    evaluation: Evaluation | None
    contents: str | None
    notes: list[str]


def read(folder: Path) -> Accounts:
    """Read the small files of a run's folder. Nothing is raised: what cannot be read is told in the notes."""
    run, notes = RunDirectory(folder), []
    settings = _read(run.config, _settings, notes)
    if settings is None and not notes:
        notes.append("config.yaml is missing, so its settings are unknown")
    result = _read(folder / "result.json", _table, notes) or {}
    status = _read(run.status, _table, notes)
    workers = status.get("workers") if status else None
    evaluation = _read(folder / "evaluation.json", _evaluation, notes)
    newest = checkpoints(run.checkpoints)[-1:]
    contents = _read(newest[0] / STATE, _contents, notes) if newest else None
    return Accounts(
        settings,
        _state(run, status, result),
        result,
        len(workers) if isinstance(workers, list) else None,
        evaluation,
        contents,
        notes,
    )


def plain(text: Any) -> str:
    """Any value as text that stays in its line and is not too long."""
    text = in_one_line(text if isinstance(text, str) else json.dumps(text, default=str))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def number(values: dict[str, Any], key: str) -> float | None:
    """A finite number by its key; None: there is none."""
    value = values.get(key)
    return value if is_number(value) else None


def _read(path: Path, understood: Callable[[str], Any], notes: list[str]) -> Any:
    """What a file says; None: there is no such file, or a note tells why not."""
    try:
        return understood(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        name = path.name if path.name != STATE else f"{path.parent.name}/{STATE}"
        why = plain(" ".join(str(error).split()) or type(error).__name__)
        notes.append(f"{name} cannot be read ({why}), so what it says is unknown")
        return None


def _table(text: str) -> dict[str, Any]:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("is no table of values")
    return values


def _settings(text: str) -> dict[str, Any]:
    """All settings, as JSON has them; not by ``settings.load``, which refuses those of newer versions."""
    given = yaml.safe_load(text)
    if not isinstance(given, dict):
        raise ValueError("holds no settings")
    return {
        **DEFAULTS,
        **{plain(key): json.loads(json.dumps(value, default=str)) for key, value in flat(given).items()},
    }


def _contents(text: str) -> str:
    return plain(_table(text)["config"]["data"]["contents"])


def _state(run: RunDirectory, status: dict[str, Any] | None, result: dict[str, Any]) -> State:
    word = (status or {}).get("status")
    if word not in ("running", "done", "stopped", "failed"):
        return State("done") if result else State("unknown", f"status.json says {plain(word)}" if word else "")
    if word != "running":
        return State(word, "" if word == "done" else plain(status.get("reason") or ""))
    try:
        silence = time.time() - run.lock.stat().st_mtime
    except OSError:
        return State("silent", "nobody holds its lock")
    if silence < LIFE_SECONDS:
        return State("running")
    return State("silent", f"no sign of life for {_length(silence)}, by the clock of this machine")


def _length(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"


def _evaluation(text: str) -> Evaluation:
    said = _table(text)
    classes = [ClassResult(plain(one["name"]), _fraction(one, "top1")) for one in said["classes"]]
    confusions = [
        Confusion(plain(one["class"]), plain(one["taken_for"]), *(_fraction(one, key) for key in ("count", "share")))
        for one in said.get("confusions") or []
    ]
    return Evaluation(
        plain(said.get("checkpoint", "")), number(said, "step"), plain(said.get("split", "")), classes, confusions
    )


def _fraction(values: dict[str, Any], key: str) -> float:
    value = number(values, key)
    if value is None:
        raise ValueError(f"{key} is no number")
    return value
