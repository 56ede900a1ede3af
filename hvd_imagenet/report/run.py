"""A run, read from its folder, and where runs are found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.metrics.result import accuracies
from hvd_imagenet.report import accounts, events
from hvd_imagenet.report.accounts import Accounts, plain
from hvd_imagenet.report.events import Events
from hvd_imagenet.run_directory import RunDirectory

READERS = 4
SHOWN = 5  # names in a message at most
NO_RUN = "neither events in metrics.jsonl nor config.yaml and checkpoints"
BEGINNING = 2**16  # bytes of metrics.jsonl, in which there are events


class Errors(NamedTuple):
    """Validation top-1 error in percent: of the last evaluation, the best, and the median of the last five."""

    last: float
    best: float
    median5: float


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        path: its folder.
        label: by which it is known among those beside it.
        accounts: what its small files say.
        events: what it has logged.
    """

    path: Path
    label: str
    accounts: Accounts
    events: Events

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.accounts.state.word == "done"

    @property
    def errors(self) -> Errors | None:
        """Its errors, of the end if it has come to that, else so far; None: nothing has been evaluated."""
        keys = "val_top1", "best_top1", "median5_top1"
        if self.done and None not in (said := [self._said(key) for key in keys]):
            return Errors(*(100 * (1 - top1) for top1 in said))
        evaluations = self.events.evaluations
        if not len(evaluations["step"]):
            return None
        pairs = zip(evaluations["top1"].tolist(), evaluations["top5"].tolist(), strict=True)
        found = accuracies([{"top1": top1, "top5": top5} for top1, top5 in pairs])
        return Errors(*(100 * (1 - found[key]) for key in keys))

    @property
    def steps(self) -> int:
        """Finished steps, as far as they are logged."""
        return int(self._reached("step"))

    @property
    def epoch(self) -> float:
        """The epochs that it has come to, as far as they are logged."""
        return float(self._reached("epoch"))

    @property
    def workers(self) -> int | None:
        """Of its last job; None: unknown."""
        return self.accounts.workers or self._said("workers")

    @property
    def images_per_second(self) -> float | None:
        """Over the whole run; None: unknown."""
        if self.done and (said := self._said("images_per_second")):
            return said
        logged = self.events.steps["images_per_second"]
        return float(np.nanmean(logged)) if np.isfinite(logged).any() else None

    @property
    def wall_seconds(self) -> float | None:
        """How long it has taken; None: it is not at its end, and nobody has counted yet."""
        return self._said("wall_seconds") if self.done else None

    @property
    def notes(self) -> list[str]:
        """What a reader should know of it before looking at its figures."""
        found = list(self.accounts.notes)
        if self.events.damaged:
            lines = "1 line" if self.events.damaged == 1 else f"{self.events.damaged:,} lines"
            found.append(f"{lines} of metrics.jsonl cannot be read and are left out")
        state = self.accounts.state
        if self.events.cut_short and state.word != "running":
            found.append("the last line of metrics.jsonl is cut short and left out")
        if state.word != "done":
            planned = accounts.number(self.accounts.settings or {}, "epochs")
            far = f"epoch {self.epoch:.4g}" + (f" of {planned:g}" if planned is not None else "")
            word = {"running": "is still running", "silent": "seems to have died", "unknown": "has no known end"}
            why = f" ({state.reason})" if state.reason else ""
            found.append(f"{word.get(state.word, f'has {state.word}')}{why}: what is shown is up to {far}")
        if not len(self.events.evaluations["step"]):
            found.append("has not been evaluated yet")
        return found

    def _said(self, key: str) -> Any:
        return accounts.number(self.accounts.result, key)

    def _reached(self, key: str) -> float:
        return max(of[key].max(initial=0) for of in (self.events.steps, self.events.evaluations))


class Found(NamedTuple):
    """Folders of runs; of each its arm, if the folder of a study says so; and what else there was."""

    paths: list[Path]
    arms: list[str | None]
    notes: list[str]


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, which others' folders with files of these names do not.

    Raises:
        SettingsError: it cannot be read.
    """
    with _reading(folder):
        return _holds_run(folder)


def _holds_run(folder: Path) -> bool:
    run = RunDirectory(folder)
    if run.config.is_file() and run.checkpoints.is_dir():
        return True
    if not run.metrics.is_file():
        return False
    with run.metrics.open("rb") as file:
        return b'"event"' in file.read(BEGINNING)


def find(given: list[Path]) -> Found:
    """The runs among what is given: folders of runs, and folders of such, down to two levels, as a study has them.

    Each is taken once. What cannot be read is left out, unless it has been named.

    Raises:
        SettingsError: something is not there, or there is no run.
    """
    found: dict[Path, tuple[Path, str | None]] = {}
    empty, closed = [], []
    for place in given:
        below = _below(place, closed)
        if not below:
            empty.append(plain(str(place)))
        for path in below:
            of_study = path.parent.parent == place and (place / "study.yaml").exists()
            found.setdefault(path.resolve(), (path, path.parent.name if of_study else None))
    shown = ", ".join(empty[:SHOWN]) + (f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else "")
    if not found:
        why = "; ".join([f"no run in there ({NO_RUN})", *closed])
        raise SettingsError(f"report: {shown}; {why}; give folders of runs")
    notes = [f"left out, since no run is in there ({NO_RUN}): {shown}"] if empty else []
    notes += [f"left out: {one}" for one in closed]
    return Found([path for path, _ in found.values()], [arm for _, arm in found.values()], notes)


def _below(place: Path, closed: list[str]) -> list[Path]:
    """The runs in a folder: itself, or what is in it, 9 before 10. What in it cannot be read is added to ``closed``."""
    with _reading(place):
        if not place.exists():
            raise SettingsError(f"report: {plain(str(place))}; there is no such folder; give the folders of runs")
        if _holds_run(place):
            return [place]
        runs = []
        for path in sorted((*place.glob("*"), *place.glob("*/*")), key=_in_order):
            try:
                runs += [path] if _holds_run(path) else []
            except OSError as error:
                closed.append(f"{plain(str(path))} cannot be read ({error.strerror})")
        return runs


def _in_order(path: Path) -> list[list[str | int]]:
    """By which paths are sorted as people number them: each part cut into what is no number and what is one."""
    cut = (re.split(r"(\d+)", part) for part in path.parts)
    return [[int(text) if place % 2 else text for place, text in enumerate(part)] for part in cut]


def read(paths: list[Path]) -> list[Run]:
    """The runs in these folders.

    Raises:
        SettingsError: one cannot be read.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_read, paths, _labels(paths)))


def _read(path: Path, label: str) -> Run:
    with _reading(path):
        return Run(path, plain(label), accounts.read(path), events.read(path / "metrics.jsonl"))


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Tell of a place that cannot be read."""
    try:
        yield
    except OSError as error:
        raise SettingsError(f"report: {plain(str(place))}; cannot be read ({error.strerror}); look at it") from None


def _labels(paths: list[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell them all apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(one[-length:]) for one in parts]
        if len(set(labels)) == len(labels):
            break
    return labels
