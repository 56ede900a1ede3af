"""A study's folder: what may be in it, what is done of it, and what a second start may not change."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hvd_imagenet import checkpoint, settings
from hvd_imagenet.config import Config
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.startup import flat
from hvd_imagenet.study.definition import LOCK, STUDY, Run, Study, is_own

ARM_SETTINGS = "settings.yaml"
# Settings that do not change what a run comes to. The data may have moved: what counts is what is in it.
FREE = ("data.path", "data.threads", "data.cache_dir", "data.cache_gib", "log.", "checkpoint.", "faults.")


class StudyFolder:
    """The folder of a study. Its runs lock themselves; what all starts of the study write is written one by one.

    Args:
        path: of the folder; it need not be there.
        study: that is to be in it.
        contents: checksum of each arm's training set; None: nothing is to be begun here.
    """

    def __init__(self, path: Path, study: Study, contents: dict[str, str] | None = None):
        self.path = path
        self.study = study
        self._contents = contents or {}

    def run(self, run: Run) -> Path:
        """The folder of a run."""
        return self.path / run.name

    def log(self, run: Run) -> Path:
        """What the run's command has printed."""
        return self.path / f"{run.name}.log"

    def settings(self, arm: str) -> Path:
        """All settings of an arm."""
        return self.path / arm / ARM_SETTINGS

    def is_done(self, run: Run) -> bool:
        """Whether a run has a result."""
        try:
            result = json.loads((self.run(run) / "result.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(result, dict) and isinstance(result.get("median5_top1"), int | float)

    def done(self) -> list[Run]:
        """The runs that have a result."""
        return [run for run in self.study.runs() if self.is_done(run)]

    def prepare(self) -> None:
        """Check that the study can begin or go on here, and write what it is.

        Raises:
            SettingsError: there is something else in the folder, or a run with other settings.
        """
        self.check()
        files = {self.path / STUDY: self.study.dump()}
        files |= {self.settings(arm): settings.dump(config) for arm, config in self.study.configs.items()}
        if all(file.exists() and file.read_text() == text for file, text in files.items()):
            return
        with self.writing():
            self.check()  # another start may have come before
            for file, text in files.items():
                file.parent.mkdir(exist_ok=True)
                write_whole(file, text.encode())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While it is entered, no other start of the study writes to the folder itself; runs do.

        Raises:
            SettingsError: the folder cannot be written to.
        """
        lock = RunLock(self.path / LOCK)
        lock.acquire(lambda text: print(text, file=sys.stderr))  # a task's options go to the standard output
        try:
            yield
        except OSError as error:
            raise SettingsError(f"-o: {self.path}; cannot be written ({error.strerror}); name another") from None
        finally:
            lock.release()

    def check(self) -> None:
        """Raise SettingsError for what does not belong into the folder, or for a run with other settings."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise SettingsError(f"-o: {self.path}; is no folder; name another")
        for entry in _entries(self.path):
            if entry.name in self.study.arms and entry.is_dir():
                self._check_arm(entry)
            elif not is_own(entry.name) and not _is_empty_arm(entry):
                self._refuse(entry)
        for run in self.study.runs():
            self._check_run(run)

    def _check_arm(self, folder: Path) -> None:
        asked = tuple(f"seed-{seed}" for seed in self.study.seeds)
        for entry in _entries(folder):
            if entry.name not in asked and not entry.name.startswith((*(f"{name}." for name in asked), ARM_SETTINGS)):
                self._refuse(entry)

    def _refuse(self, entry: Path) -> None:
        remedy = "name another folder with -o"
        if (self.path / STUDY).exists():
            remedy = "a study may get more arms and seeds, but keeps those that it has: move it away, or " + remedy
        stranger = entry.relative_to(self.path)
        raise SettingsError(f"-o: {self.path}; holds {stranger}, which is not of this study; {remedy}")

    def _check_run(self, run: Run) -> None:
        folder = self.run(run)
        try:
            begun = settings.read_yaml(folder / "config.yaml", str(folder / "config.yaml"))
        except FileNotFoundError:
            return
        if not isinstance(begun, dict):
            raise SettingsError(
                f"{folder}/config.yaml: holds no settings; move that run away, or name another folder with -o"
            )
        known = {**flat(dataclasses.asdict(Config())), **flat(begun)}  # an older version has not written what is newer
        for key, value in flat(dataclasses.asdict(run.config)).items():
            if value != known[key] and not key.startswith(FREE):
                raise SettingsError(
                    f"{key}: was {known[key]} in {folder}, and is {value}; leave it as it was, move that run away, or "
                    "name another folder with -o"
                )
        contents = _contents_known(folder)
        if contents not in (None, self._contents[run.arm]):
            raise SettingsError(
                f"data.path: {run.config.data.path}; has other images than {folder} was trained on; give the data set "
                "that the study began with, or name another folder with -o"
            )


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, but for what is hidden."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _is_empty_arm(entry: Path) -> bool:
    """Whether this is an arm none of whose runs has begun: a study may still do without it."""
    return entry.is_dir() and [inner.name for inner in _entries(entry)] == [ARM_SETTINGS]


def _contents_known(run: Path) -> str | None:
    """Checksum of the training set that a run's newest checkpoint was trained on; None: there is none to tell."""
    for path in reversed(checkpoint.checkpoints(run / "checkpoints")):
        try:
            return json.loads((path / checkpoint.STATE).read_text())["config"]["data"]["contents"]
        except (OSError, ValueError, KeyError):
            continue
    return None
