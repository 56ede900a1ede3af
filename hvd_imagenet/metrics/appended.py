"""Files that are only appended to, and that a full disk cannot take anything from."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hvd_imagenet.durable import write_whole


class AppendedFile:
    """Appends bytes; what cannot be written for now is kept, and written when it can be.

    Args:
        path: the file, made if it is not there.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._pending = b""

    def write(self, data: bytes) -> None:
        """Append something; it can be read by others from then on, unless the disk is full."""
        self._pending += data
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._descriptor, self._pending) :]
        except OSError:
            return

    def flush(self) -> None:
        """Wait until the disk has it all, if it can."""
        self.write(b"")
        with suppress(OSError):
            os.fsync(self._descriptor)

    def close(self) -> None:
        self.write(b"")
        with suppress(OSError):  # some file servers tell only now that their disk is full
            os.close(self._descriptor)


class AppendedLines:
    """The same for lines of text; one that a crash has cut short ends before the next begins."""

    def __init__(self, path: Path):
        cut_short = path.exists() and not _ends_a_line(path)
        self._file = AppendedFile(path)
        if cut_short:
            self._file.write(b"\n")

    def write(self, line: str) -> None:
        """Append a line, given without its end."""
        self._file.write(f"{line}\n".encode())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def keep_lines(path: Path, stays: Callable[[str], bool]) -> list[str]:
    """Cut lines out of a file, if it is there; returns those that stay, without their ends."""
    written = path.read_text(errors="replace") if path.exists() else ""
    kept = [line for line in written.splitlines() if stays(line)]
    text = "".join(f"{line}\n" for line in kept)
    if text != written:
        write_whole(path, text.encode())
    return kept


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"", b"\n")
