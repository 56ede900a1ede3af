"""The files that hold a split's samples, by number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from hvd_imagenet.errors import DataError


class Files(Protocol):
    """The shards of a packed split, or the image files of a plain folder."""

    def open(self, number: int) -> int:
        """A descriptor of a file, to be closed by who asked for it.

        Raises:
            DataError: there is no such file any more.
        """

    def name(self, number: int) -> str:
        """What to call a file in a message."""


class LocalFiles:
    """Files in a folder of this machine.

    Args:
        folder: what the paths are relative to.
        paths: of the files, in the order of their numbers.
    """

    def __init__(self, folder: Path, paths: list[str]):
        self._folder, self._paths = folder, paths

    def open(self, number: int) -> int:
        try:
            return os.open(self._folder / self._paths[number], os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.name(number)}: cannot be read ({error.strerror})") from None

    def name(self, number: int) -> str:
        return str(self._folder / self._paths[number])
