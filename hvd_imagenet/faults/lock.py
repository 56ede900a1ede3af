"""The lock of a run's folder: one job at a time, also where an old job's last workers are still dying."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hvd_imagenet.errors import SettingsError

NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
BOOT = Path("/proc/sys/kernel/random/boot_id")


class RunLock:
    """Holds a folder for this process, from `acquire` to `release` or its death.

    The kernel's flock decides where it reaches: on this machine always, between machines on some file systems. So a
    lock of another machine counts as held, too, as long as its heartbeat goes on: the holder sets the file's time every
    few seconds. Changes of that time are watched, not the time itself, since machines' clocks differ.

    Args:
        path: of the lock file, which stays, empty, when the lock is released.
        patience: how long `acquire` waits for another job to end, in seconds.
        beat: seconds between two heartbeats.

    Attributes:
        held_until: the latest moment that the holder before may have lived, in nanoseconds of the files' times; 0:
            there was none.
        ahead: by how much the files' clock, which may be a server's, is ahead of this machine's, in nanoseconds.
    """

    def __init__(self, path: Path, patience: float = 30, beat: float = 2):
        self._path = path
        self._patience = patience
        self._beat = beat
        self.held_until = 0.0
        self.ahead = 0
        self._released = threading.Event()
        self._seen: tuple[int, float] = (0, 0.0)  # the file's time, and since when it has been that

    def acquire(self, say: Callable[[str], None]) -> None:
        """Wait until the folder is free, and hold it.

        Args:
            say: told what is waited for.

        Raises:
            SettingsError: another job holds it, or the file cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            known = self._path.exists()
            self._file = self._path.open("a+")
            self._wait(say)
            if known:
                self.held_until = os.fstat(self._file.fileno()).st_mtime_ns + 2e9 * self._beat
            while not self._taken():
                self._wait(say)
        except OSError as error:
            folder = self._path.parent
            raise SettingsError(f"--run: {folder}; cannot be written ({error.strerror}); name another") from None
        threading.Thread(target=self._keep_beating, name="lock", daemon=True).start()

    def in_use(self) -> bool:
        """Whether a job holds the folder; nothing is written, and the folder need not be there.

        Of a job on another machine that is gone this is found out by asking again, for some seconds.
        """
        try:
            with self._path.open("r+") as self._file:  # flock goes with it; a job that is just waiting asks again
                return not self._free()
        except OSError:  # there is none, or it cannot be opened: a job that tries to hold it will say so
            return False

    def _taken(self) -> bool:
        """Write who holds the folder from now on; whether nobody else has done so at the same time."""
        me = {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "token": secrets.token_hex(8)}
        self._file.truncate(0)
        self._file.write(json.dumps(me))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.ahead = os.fstat(self._file.fileno()).st_mtime_ns - time.time_ns()
        if self._locked:
            return True
        time.sleep(2 * self._beat)  # flock has not decided it: of all that write now, the last one does
        return self._holder() == me

    def release(self) -> None:
        """Let others have the folder."""
        self._released.set()
        with suppress(OSError):
            self._file.truncate(0)
        self._file.close()

    def _wait(self, say: Callable[[str], None]) -> None:
        give_up = time.monotonic() + self._patience
        told = False
        while not self._free():
            holder = self._holder()
            who = f"process {holder['pid']} on {holder['host']}" if holder else "another job"
            if time.monotonic() > give_up:
                self._file.close()
                raise SettingsError(
                    f"--run: {self._path.parent}; in use by {who}; wait for it, end it, or name another folder"
                )
            if not told:
                say(f"{self._path.parent} is in use by {who}; waiting up to {self._patience:g} s")
                told = True
            time.sleep(self._beat / 4)

    def _free(self) -> bool:
        self._locked = False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._holder().get("boot", _boot()) == _boot():
                self._locked = True  # here flock is sure: whoever wrote that is gone
                return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
        return not self._holder() or self._silent()

    def _silent(self) -> bool:
        """Whether there has been no heartbeat for three times its period, as far as this process has watched."""
        changed, now = os.fstat(self._file.fileno()).st_mtime_ns, time.monotonic()
        if changed != self._seen[0]:
            self._seen = changed, now
        return now - self._seen[1] > 3 * self._beat

    def _holder(self) -> dict:
        with suppress(OSError, ValueError):
            holder = json.loads(self._path.read_text())
            return holder if isinstance(holder, dict) else {}
        return {}

    def _keep_beating(self) -> None:
        while not self._released.wait(self._beat):
            with suppress(OSError):
                os.utime(self._path)


def _boot() -> str:
    """What tells this machine, since its last start, from all others; host names need not."""
    return BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()
