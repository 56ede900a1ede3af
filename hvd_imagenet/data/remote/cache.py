"""A folder of limited size that holds files by their checksums, shared by all processes of a host.

    FOLDER/files/SHA256            whole, and what its name says
    FOLDER/files/SHA256.partial    being fetched, by a process that locks it; as long as the whole is going to be
    FOLDER/readers/TOKEN           what a process is going to read, which locks it
    FOLDER/lock                    held for moments: while room is made, and while files get their names

The locks are the kernel's flock, which a process that dies lets go of, so nothing is left to be cleaned up by hand.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hvd_imagenet.data.remote.caching import Caching, default_folder
from hvd_imagenet.data.remote.held import Claim, is_at, lock, remove_if_dead
from hvd_imagenet.data.remote.reading import Progress, Reading
from hvd_imagenet.errors import DataError, SettingsError

PARTIAL = ".partial"
NOTHING_CAME = (0, 0)  # the times of a partial file that has its room, and nothing else
FRESH_SECONDS = 60  # a file used as lately as that is not noted to be used again

# Writes the file to a descriptor, and is told since when nothing has come of it, by `time.monotonic`.
Fetch = Callable[[int, float], None]


class _File(NamedTuple):
    used: float
    bytes: int
    path: Path


class Cache:
    """Holds files up to a limit, and lets go of those that nobody has claimed, the least recently used first.

    Args:
        caching: where, and how much; `open` waits as long for room as for the network.

    Raises:
        SettingsError: the folder cannot be made, or belongs to someone else.
    """

    def __init__(self, caching: Caching):
        self.folder = folder = caching.folder or default_folder()
        self._limit, self._patience = caching.limit, caching.patience
        self._files, self._readers = folder / "files", folder / "readers"
        try:
            for place in (folder, self._files, self._readers):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self._contents()  # removes what dead processes have left
        except OSError as error:
            raise SettingsError(
                f"data.cache_dir: {folder}; cannot be used ({error.strerror}); name another folder"
            ) from None

    def path(self, key: str) -> Path:
        """Where a file is, while it is there."""
        return self._files / key

    def open(self, key: str, size: int, fetch: Fetch, reading: Reading) -> int:
        """A descriptor of a file, which stays readable whatever becomes of the file; to be closed by who asked for it.

        Where the file is not there it is fetched, or waited for if another process is fetching it, as long as something
        comes.

        Raises:
            DataError: no room for it, nothing comes, the reading is over, or as `fetch` raises.
        """
        descriptor = self._find(key, size)
        if descriptor is None:
            progress = Progress()
            with self._own_partial(key, lambda stamp: self._wait_for_other(key, reading, progress, stamp)) as partial:
                descriptor = self._find(key, size)
                if descriptor is None:
                    self._wait_for_room(partial, size, reading, progress)
                    descriptor = self._complete(key, partial, fetch, progress.since)
        return descriptor

    def fetch_ahead(self, key: str, size: int, fetch: Fetch) -> bool:
        """See to it that a file is there; False: not now, since another process fetches it, or there is no room.

        Raises:
            DataError: as `fetch` raises.
        """
        descriptor = self._find(key, size)
        if descriptor is None:
            with self._own_partial(key, None) as partial:
                if partial is None:
                    return False
                descriptor = self._find(key, size)
                if descriptor is None:
                    try:
                        if not self._reserve(partial, size):
                            return False
                    except OSError:  # the disk is full: said where somebody waits for the file
                        return False
                    descriptor = self._complete(key, partial, fetch, time.monotonic())
        os.close(descriptor)
        return True

    def claim(self) -> Claim:
        """A claim on nothing yet, for as long as it is held and this process lives.

        Raises:
            DataError: it cannot be written down.
        """
        with self._writing(), self._locked():
            return Claim(self._readers / secrets.token_hex(8), self._locked)

    def room(self) -> int:
        """Bytes that it may hold at most, as the limit and the disk have it."""
        with self._locked():
            held = sum(file.bytes for file in self._contents())
        return min(self._limit, held + shutil.disk_usage(self.folder).free)

    def _find(self, key: str, size: int) -> int | None:
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.path(key)}: cannot be read ({error.strerror}); remove it") from None
        found = os.fstat(descriptor)
        if found.st_size != size:  # damaged
            os.close(descriptor)
            self.path(key).unlink(missing_ok=True)
            return None
        if time.time() - found.st_mtime > FRESH_SECONDS:
            with suppress(OSError):
                os.utime(descriptor)
        return descriptor

    @contextmanager
    def _own_partial(self, key: str, wait: Callable[[int], None] | None) -> Iterator[int | None]:
        """The empty partial file of a key, locked, and gone in the end; None: another process has it.

        Args:
            wait: until the next look at one that another process has, with what its clock says; None: do not.
        """
        path = self.path(key + PARTIAL)
        descriptor = self._lock_file(path, wait)
        try:
            with self._writing():
                if descriptor is not None:
                    os.ftruncate(descriptor, 0)
                    os.utime(descriptor, NOTHING_CAME)
                yield descriptor
        finally:
            if descriptor is not None:
                if is_at(descriptor, path):  # it has not got its own name
                    path.unlink()
                os.close(descriptor)

    def _lock_file(self, path: Path, wait: Callable[[int], None] | None) -> int | None:
        while True:
            with self._writing():
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            locked, stamp = lock(descriptor, wait=False), os.fstat(descriptor).st_mtime_ns
            if locked and is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # somebody else has it, or had
            if not locked and wait is None:
                return None
            if not locked:
                wait(stamp)

    def _complete(self, key: str, partial: int, fetch: Fetch, since: float) -> int:
        """Fetch a file into its reserved room, and give it its name."""
        fetch(partial, since)
        os.fsync(partial)
        descriptor = os.open(self.path(key + PARTIAL), os.O_RDONLY)
        with self._locked():
            self.path(key + PARTIAL).rename(self.path(key))
        return descriptor

    def _wait_for_other(self, key: str, reading: Reading, progress: Progress, stamp: int) -> None:
        progress.look(stamp)
        if time.monotonic() - progress.since > self._patience.longest:  # it says itself why, unless it is stopped
            raise DataError(
                f"{self.path(key)}: has been waited for {self._patience.longest:.0f} s, without anything coming to the "
                "process that fetches it; is it stopped? End it, and run again"
            )
        reading.pause()

    def _wait_for_room(self, partial: int, size: int, reading: Reading, progress: Progress) -> None:
        if self._reserve(partial, size):
            return
        while not self._reserve(partial, size):
            if size > self._limit or time.monotonic() - progress.since > self._patience.give_up:
                raise DataError(
                    f"{self.folder}: is full of what is read now, with data.cache_gib {self._limit / 2**30:.3g}; raise "
                    f"it, or give jobs that run at the same time a data.cache_dir each"
                )
            reading.pause()
        progress.came()  # room has, and nothing is known of the network yet

    def _reserve(self, partial: int, size: int) -> bool:
        """Take up the room on the disk before anything is fetched; False: there is none within the limit.

        Raises:
            OSError: the disk has none.
        """
        with self._locked():
            contents, claimed = self._contents(), self._claimed()
            spare = sorted(file for file in contents if file.path.suffix != PARTIAL and file.path.name not in claimed)
            excess = sum(file.bytes for file in contents) + size - self._limit
            if excess > sum(file.bytes for file in spare):
                return False
            while True:
                if excess <= 0:
                    try:
                        os.posix_fallocate(partial, 0, size)
                        os.utime(partial, NOTHING_CAME)
                        return True
                    except OSError as error:
                        if error.errno != errno.ENOSPC or not spare:
                            raise
                file = spare.pop(0)
                file.path.unlink()
                excess -= file.bytes

    def _contents(self) -> list[_File]:
        """All files, after those that dead processes have left are removed."""
        found = []
        for entry in os.scandir(self._files):
            path = Path(entry.path)
            if path.suffix == PARTIAL and remove_if_dead(path):
                continue
            with suppress(FileNotFoundError):
                state = path.stat()
                found.append(_File(state.st_mtime, state.st_size, path))
        return found

    def _claimed(self) -> set[str]:
        """The names of files that live processes are going to read."""
        readers = [Path(entry.path) for entry in os.scandir(self._readers)]
        return {name for path in readers if not remove_if_dead(path) for name in path.read_text().split()}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be written ({error.strerror}); free some space, or name another folder with "
                "data.cache_dir"
            ) from None


def require_room(caching: Caching, needed: int, what: str, remedy: str) -> None:
    """Check that what is read at a time can be in the cache.

    Args:
        needed: bytes; 0: nothing is cached.
        what: needs it; remedy: beside a larger limit or disk, for the message.

    Raises:
        SettingsError: the limit or the disk is too small.
    """
    if needed == 0:
        return
    cache = Cache(caching)
    needs = f"{what} needs {math.ceil(needed / 2**30 * 100) / 100:g} GiB in the cache of each host"
    if needed > caching.limit:
        raise SettingsError(f"data.cache_gib: {caching.limit / 2**30:.3g}; {needs}; raise it, or {remedy}")
    if needed > cache.room():
        raise SettingsError(
            f"data.cache_dir: {cache.folder}; {needs}, and its disk has room for {cache.room() / 2**30:.2f} GiB; "
            f"name a folder on a larger one, or {remedy}"
        )
