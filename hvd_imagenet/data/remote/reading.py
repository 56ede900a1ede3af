"""A time in which a remote data set is read: what waits for its files waits until it is over, and no longer."""

from __future__ import annotations

import threading
import time

from hvd_imagenet.errors import DataError

LOOK_SECONDS = 0.1  # between two looks at what is waited for


class Reading:
    """Is over when nobody wants its files any more, or when one of its readers has failed for good.

    So one error ends all readers at once, and none of them outlives the loader.
    """

    def __init__(self):
        self._over = threading.Event()
        self._error: Exception = DataError("a file of a remote data set is not wanted any more")

    def end(self, error: Exception | None = None) -> None:
        """Let all that wait raise this error; the first one counts."""
        if error is not None and not self._over.is_set():
            self._error = error
        self._over.set()

    def check(self) -> None:
        """Raise the error that it has ended with, if it has."""
        if self._over.is_set():
            raise self._error

    def pause(self, seconds: float = LOOK_SECONDS) -> None:
        """Wait, and raise at once when it is over."""
        self._over.wait(seconds)
        self.check()


class Progress:
    """Of a file that another process, or another thread, fetches: the last time that something came.

    Attributes:
        since: by `time.monotonic`; at first when it was begun to look.
    """

    def __init__(self):
        self.came()
        self._stamp: int | None = None

    def look(self, stamp: int) -> None:
        """Note the time at which the file was written to, as the disk has it; 0: nothing has come."""
        if stamp and self._stamp is not None and stamp != self._stamp:
            self.came()
        self._stamp = stamp

    def came(self) -> None:
        self.since = time.monotonic()
