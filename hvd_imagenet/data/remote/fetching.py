"""Reads files of a remote data set: in ranges, each with a time limit, and again where the network fails."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from hvd_imagenet.data.description import Shard
from hvd_imagenet.data.remote import address
from hvd_imagenet.data.remote.caching import Patience
from hvd_imagenet.data.remote.failures import hopeless_reason, in_short, is_hopeless
from hvd_imagenet.data.remote.reading import LOOK_SECONDS, Reading
from hvd_imagenet.errors import DataError

RANGE_BYTES = 8 * 2**20
LEAST_BYTES = 64 * 2**10  # of a range, where the link is slow
PARALLEL = 4  # ranges at a time, of each worker: 4.3 times as fast as one where each takes 50 ms and 60 MiB/s at most
QUIET_SECONDS = 5  # an outage that is over before is not worth a warning
Made = TypeVar("Made")


class NotThereError(DataError):
    """There is no file of that name."""


class _Failed(Exception):
    """A try that failed, and may do better the next time."""


class _Late(_Failed):
    """Nothing came within the time limit."""

    def __init__(self):
        super().__init__("no answer in time")


@dataclass
class _Outage:
    """A time in which nothing has come: since when, when the last try failed, and whether it has been told of."""

    since: float
    last: float
    told: bool = False


class Remote:
    """A remote folder. May be used from several threads.

    Args:
        url: of the folder.
        patience: with the network.

    Raises:
        SettingsError: see `address.file_system`.
    """

    def __init__(self, url: str, patience: Patience):
        self.url = url
        self._patience = patience
        self._files, self._root = address.file_system(url)
        self._range = RANGE_BYTES
        self._outage: _Outage | None = None  # of all threads: where one has given up, the next need not start anew

    def read(self, name: str) -> bytes:
        """The whole of a small file.

        Raises:
            NotThereError: as it says.
            DataError: not allowed, or the network failed for too long.
        """

        def attempt(limit: float) -> bytes:
            running = self._begin(name, None, limit)
            wait([running], limit)
            return self._result(name, running)

        return self._persist(name, attempt, Reading(), time.monotonic())

    def fetch(self, file: Shard, reading: Reading, descriptor: int, since: float) -> None:
        """Write a file to a descriptor, and check it; fetched once more where it is not what it should be.

        Args:
            reading: for which it is done; is given up when that is over.
            since: by `time.monotonic`; from then on nothing has come of this file.

        Raises:
            DataError: as in `read`; or it is not the file that the data set's description tells of.
            OSError: the descriptor cannot be written to.
        """
        for _ in range(2):
            self._write(file, reading, descriptor, since)
            with os.fdopen(os.dup(descriptor), "rb") as written:
                written.seek(0)
                if hashlib.file_digest(written, "sha256").hexdigest() == file.sha256:
                    return
            since = time.monotonic()
        raise DataError(
            f"{self.url}/{file.name}: its sha256 is not the one in dataset.json, nor was it when fetched again; "
            "copy the data set there once more"
        )

    def _write(self, file: Shard, reading: Reading, descriptor: int, since: float) -> None:
        missing = deque([range(file.bytes)])
        while missing:  # what has come is kept, whatever becomes of the rest
            self._persist(
                file.name,
                lambda limit: self._advance(file.name, missing, descriptor, limit, reading),
                reading,
                since,
            )
            since = time.monotonic()

    def _advance(self, name: str, missing: deque[range], descriptor: int, limit: float, reading: Reading) -> None:
        """Read what is missing, several ranges at a time, until all is there or one of them fails.

        Raises:
            _Failed: nothing has come at all.
        """
        running: dict[Future, tuple[range, float]] = {}
        came, failed = False, None
        while running or (missing and not failed):
            reading.check()
            while missing and not failed and len(running) < self._parallel():
                part = _cut(missing, self._range)
                running[self._begin(name, part, limit)] = part, time.monotonic()
            wait(running, LOOK_SECONDS, FIRST_COMPLETED)
            for future, (part, begun) in list(running.items()):
                passed = time.monotonic() - begun
                if not future.done() and passed < limit:
                    continue
                del running[future]
                try:
                    data = self._result(name, future, part)
                except _Failed as error:
                    self._slow_down(part, error)
                    failed = error
                    missing.append(part)
                    continue
                came = True
                self._speed_up(part, passed)
                _write_all(descriptor, data, part.start)
        if failed and not came:
            raise failed

    def _parallel(self) -> int:
        return PARALLEL if self._range == RANGE_BYTES else 1

    def _slow_down(self, part: range, error: _Failed) -> None:
        """Ask for less at a time where a link brings too little within the limit: a range counts as a whole only."""
        if isinstance(error, _Late):
            self._range = min(self._range, max(LEAST_BYTES, len(part) // 2))

    def _speed_up(self, part: range, seconds: float) -> None:
        """Ask for twice as much where even four of such ranges at a time would be there long before the limit."""
        if seconds < self._patience.limit / 8:
            self._range = max(self._range, min(RANGE_BYTES, 2 * len(part)))

    def _begin(self, name: str, part: range | None, limit: float) -> Future:
        """Read on a thread, which is left behind where it hangs; not all protocols know of time limits."""
        future: Future = Future()
        options = {"timeout": limit} if self._files.async_impl else {"cache_type": "none"}
        if part is not None:
            options |= {"start": part.start, "end": part.stop}

        def read() -> None:
            try:
                future.set_result(self._files.cat_file(f"{self._root}/{name}", **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=read, name=f"fetch {name}", daemon=True).start()
        return future

    def _result(self, name: str, future: Future, part: range | None = None) -> bytes:
        if not future.done():
            raise _Late
        error = future.exception()
        if isinstance(error, FileNotFoundError):
            raise NotThereError(f"{self.url}/{name}: is not there") from None
        if error is not None and is_hopeless(error):
            raise DataError(f"{self.url}/{name}: {hopeless_reason(error)}") from None
        if error is not None:
            raise _Late if isinstance(error, TimeoutError) else _Failed(in_short(error))
        data = future.result()
        if part is not None and len(data) > len(part):
            raise DataError(
                f"{self.url}/{name}: the server does not serve parts of files (HTTP's Range); use one that does"
            )
        if part is not None and len(data) < len(part):
            raise _Failed(f"{len(data)} bytes of {len(part)}")
        return data

    def _persist(self, name: str, attempt: Callable[[float], Made], reading: Reading, since: float) -> Made:
        """Try until something comes, which has not since then; `attempt` is given its time limit."""
        retrying = Retrying(
            sleep=reading.pause,
            retry=retry_if_exception_type(_Failed),
            stop=lambda _: self._gives_up(since),
            wait=wait_random_exponential(self._patience.pause, self._patience.longest_pause),
            before_sleep=lambda state: self._warn(name, state),
        )
        try:
            for turn in retrying:
                with turn:
                    made = attempt(self._patience.limit_of(turn.retry_state.attempt_number))
        except RetryError as error:
            last, outage = error.last_attempt, self._outage
            passed = time.monotonic() - (outage.since if outage else since)
            raise DataError(
                f"{self.url}/{name}: cannot be read ({last.exception()}); tried {last.attempt_number} times, with "
                f"nothing for {passed:.0f} s; look at the network and the server, and run again"
            ) from None
        self._outage = None
        return made

    def _gives_up(self, since: float) -> bool:
        """Note a try that has failed, of a file of which nothing has come since then; whether it was the last one."""
        now, outage = time.monotonic(), self._outage
        if outage is None or now - outage.last > self._patience.give_up:  # that one may be over
            outage = self._outage = _Outage(since, now)
        outage.last = now
        return now - outage.since >= self._patience.give_up

    def _warn(self, name: str, state: RetryCallState) -> None:
        """Once in an outage."""
        outage = self._outage
        if outage and time.monotonic() - outage.since >= QUIET_SECONDS and not outage.told:
            outage.told = True
            print(
                f"warning: {self.url}/{name}: cannot be read ({state.outcome.exception()}); trying again for up to "
                f"{self._patience.give_up:.0f} s",
                file=sys.stderr,
                flush=True,
            )


def _cut(missing: deque[range], most: int) -> range:
    """Take the next range, of so many bytes at most."""
    part = missing.popleft()
    if len(part) > most:
        missing.appendleft(part[most:])
    return part[:most]


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
