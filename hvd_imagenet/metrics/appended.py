"""Files that are only appended to, and that a full disk cannot take anything from."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class AppendedFile:
    """Appends text; what cannot be written for now is kept, and written when it can be.

    Args:
        path: the file, made if it is not there.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._pending = b""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            self._pending = b"\n"  # a crash has cut the last line short: it ends here

    def write(self, text: str) -> None:
        """Append a text; it can be read by others from then on, unless the disk is full."""
        self._pending += text.encode()
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._descriptor, self._pending) :]
        except OSError:
            return

    def flush(self) -> None:
        """Wait until the disk has it all, if it can."""
        self.write("")
        with suppress(OSError):
            os.fsync(self._descriptor)

    def close(self) -> None:
        self.write("")
        os.close(self._descriptor)
