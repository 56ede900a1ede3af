"""The folder that a data set is packed into: who may write there, and what an earlier packing has left."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hvd_imagenet.data import description
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import DataError, SettingsError

NOTES = ".packing"  # while it is there without dataset.json, the folder is no data set yet


class Workplace:
    """A data set's folder while it is packed.

    Args:
        folder: need not exist.
        identity: what must be the same for an earlier packing to be gone on with.

    Attributes:
        notes: a folder in it for what is known of finished shards.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder = folder
        self.notes = folder / NOTES
        self._plan = self.notes / "plan.json"
        self.identity = identity

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Have the folder to oneself; the notes are removed once the data set is complete, which it may be already.

        Yields:
            Whether there is anything left to do.

        Raises:
            SettingsError: it is in use, cannot be made, or holds something else.
        """
        complete = self._complete()
        if not complete:
            self._begin()
            with (self.notes / "lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    raise SettingsError(f"{self.folder}: is being packed by another process; wait for it") from None
                for path in self.folder.rglob("*.partial"):
                    path.unlink(missing_ok=True)
                yield True
        else:
            yield False
        shutil.rmtree(self.notes, ignore_errors=True)

    def require_space(self, size: int) -> None:
        """Raise DataError unless so many bytes are free."""
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise DataError(
                f"{self.folder}: {free / 2**30:,.1f} GiB are free, {size / 2**30:,.1f} are needed; free some space, or "
                "store smaller images: --shorter-side 256"
            )

    def _complete(self) -> bool:
        name = self.folder / description.NAME
        if not name.exists():
            return False
        found = description.parse(name.read_bytes(), str(name))
        if {"source": found.source, "items": found.items, "options": found.options} != self.identity:
            raise SettingsError(f"{self.folder}: is another data set, or packed with other options; name a new folder")
        return True

    def _begin(self) -> None:
        try:
            if self.folder.exists() and not self.folder.is_dir():
                raise SettingsError(f"{self.folder}: is a file; name a new folder")
            if self._plan.exists():
                if json.loads(self._plan.read_text()) != self.identity:
                    raise SettingsError(
                        f"{self.folder}: was begun with another source or other options; give the same, or remove it"
                    )
                return
            if self.folder.exists() and {entry.name for entry in self.folder.iterdir()} - {NOTES}:
                raise SettingsError(f"{self.folder}: exists and is not empty; name a new folder, or remove it")
            self.notes.mkdir(parents=True, exist_ok=True)
            write_whole(self._plan, json.dumps(self.identity).encode())
        except OSError as error:
            raise SettingsError(f"{self.folder}: cannot be made ({error.strerror}); name another folder") from None
