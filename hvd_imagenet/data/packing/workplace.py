"""The folder that a data set is packed into: who may write there, and what an earlier packing has left."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from hvd_imagenet.data import description
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import DataError, SettingsError

NOTES = ".packing"  # while it is there without dataset.json, the folder is no data set yet


class Workplace:
    """A data set's folder while it is packed.

    Args:
        folder: need not exist.
        identity: what must be the same for an earlier packing to be gone on with, or to be the same data set.
        state: of the source's files, which must be the same, too, for it to be gone on with.

    Attributes:
        notes: a folder in it for what is known of finished shards.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], state: str):
        self.folder = folder
        self.notes = folder / NOTES
        self.identity = identity
        self._plan = {**identity, "state": state}

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Have the folder to oneself; the notes are removed once the data set is complete, which it may be already.

        Yields:
            Whether there is anything left to do.

        Raises:
            SettingsError: it is in use, cannot be made, or holds something else.
        """
        if self._complete() and not self.notes.exists():
            yield False
            return
        with self._locked():
            unfinished = not self._complete()  # whoever had the lock before may have finished it
            if unfinished:
                self._begin()
            yield unfinished
            shutil.rmtree(self.notes, ignore_errors=True)

    def require_space(self, size: int) -> None:
        """Raise DataError unless so many bytes are free."""
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise DataError(
                f"{self.folder}: {decimal(free)} are free, {decimal(size)} are needed; free some space, or store "
                "smaller images: --shorter-side 256"
            )

    def _complete(self) -> bool:
        name = self.folder / description.NAME
        if not name.exists():
            return False
        found = description.parse(name.read_bytes(), str(name))
        if {"source": found.source, "items": found.items, "options": found.options} != self.identity:
            raise SettingsError(f"{self.folder}: is another data set, or packed with other options; name a new folder")
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise SettingsError(f"{self.folder}: is a file; name a new folder")
            if not self.notes.exists():
                self._require_empty()
            self.notes.mkdir(parents=True, exist_ok=True)
            lock = (self.notes / "lock").open("w")
        except OSError as error:
            raise SettingsError(f"{self.folder}: cannot be made ({error.strerror}); name another folder") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SettingsError(f"{self.folder}: is being packed by another process; wait for it") from None
            yield

    def _begin(self) -> None:
        """Write the plan, or go on with one that is there."""
        path = self.notes / "plan.json"
        if not path.exists():
            self._require_empty()
            write_whole(path, json.dumps(self._plan).encode())
            return
        try:
            plan = json.loads(path.read_bytes())
        except ValueError:
            raise SettingsError(f"{path}: unreadable; remove {self.folder} and begin again") from None
        if plan != self._plan:
            raise SettingsError(
                f"{self.folder}: was begun with another source or other options, or the source has changed since; give "
                "the same, or remove it"
            )
        for partial in self.folder.rglob("*.partial"):
            partial.unlink(missing_ok=True)

    def _require_empty(self) -> None:
        if self.folder.exists() and {entry.name for entry in self.folder.iterdir()} - {NOTES}:
            raise SettingsError(f"{self.folder}: exists and is not empty; name a new folder, or remove it")
