"""Files that a live process holds by the kernel's flock: where it has died they are nobody's, and can be removed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


class Claim:
    """Which files a reader is going to read, so that they stay; made by `Cache.claim`."""

    def __init__(self, path: Path, locked: Callable):
        self._file = path.open("wb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._locked = locked

    def set(self, keys: Iterable[str]) -> None:
        """Claim these files, and no others any more."""
        with self._locked():
            os.ftruncate(self._file.fileno(), 0)
            with suppress(OSError):  # on a full disk nothing is claimed: some files are fetched more than once
                os.pwrite(self._file.fileno(), "\n".join(keys).encode(), 0)


def lock(descriptor: int, wait: bool) -> bool:
    """Lock a file for this descriptor, until it is closed; False: another one has it, and `wait` is not asked for."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to the file that a descriptor was opened of."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def remove_if_dead(path: Path) -> bool:
    """Remove a file that no process holds locked; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not lock(descriptor, wait=False):
            return False
        if is_at(descriptor, path):
            path.unlink()
        return True
    finally:
        os.close(descriptor)
