"""The files that hold a split's samples, by number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

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

    def expect(self, windows: Iterator[np.ndarray], in_flight: int) -> Callable[[], None]:
        """Get ready for files to be opened: all those of a window in any order, then those of the next, and so on.

        Args:
            windows: file numbers, int64; what was expected before is not any more. Read on a thread of its own.
            in_flight: samples that are being read at the same time, at most.

        Returns:
            What ends it: those who wait in `open` get an error at once, until something is expected again. One of them
            that fails has the same effect on the others, with its error.
        """

    def room(self, at_once: int) -> int:
        """Bytes of local disk that it takes, beside the data set itself, to read from so many files at a time."""

    def for_another_reader(self) -> Files:
        """The same files: what is expected of these does not matter to them, nor the other way round."""


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

    def expect(self, windows: Iterator[np.ndarray], in_flight: int) -> Callable[[], None]:
        return lambda: None  # they are here

    def room(self, at_once: int) -> int:
        return 0

    def for_another_reader(self) -> LocalFiles:
        return self
