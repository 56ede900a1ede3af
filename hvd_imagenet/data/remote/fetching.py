"""Reads files of a remote data set: in ranges, each with a time limit, and again where the network fails."""

from __future__ import annotations

import errno
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
from hvd_imagenet.errors import DataError

RANGE_BYTES = 8 * 2**20
PARALLEL = 4  # ranges at a time, of each worker: 4.3 times as fast as one where each takes 50 ms and 60 MiB/s at most
QUIET_SECONDS = 5  # an outage that is over before is not worth a warning
TOO_EARLY = (408, 425, 429)  # of HTTP's 4xx, those that may do better the next time
HOPELESS = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError)
HOPELESS_ERRNO = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG)  # as s3fs has HTTP's 4xx
Made = TypeVar("Made")


class NotThereError(DataError):
    """There is no file of that name."""


class _Failed(Exception):
    """A try that failed, and may do better the next time."""


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

        return self._persist(name, attempt)

    def fetch(self, file: Shard, descriptor: int) -> None:
        """Write a file to a descriptor, and check it; fetched once more where it is not what it should be.

        Raises:
            DataError: as in `read`; or it is not the file that the data set's description tells of.
            OSError: the descriptor cannot be written to.
        """
        for _ in range(2):
            self._write(file, descriptor)
            with os.fdopen(os.dup(descriptor), "rb") as written:
                written.seek(0)
                if hashlib.file_digest(written, "sha256").hexdigest() == file.sha256:
                    return
        raise DataError(
            f"{self.url}/{file.name}: its sha256 is not the one in dataset.json, nor was it when fetched again; "
            "copy the data set there once more"
        )

    def _write(self, file: Shard, descriptor: int) -> None:
        starts = range(0, file.bytes, RANGE_BYTES)
        missing = deque(range(start, min(start + RANGE_BYTES, file.bytes)) for start in starts)
        while missing:  # what has come is kept, whatever becomes of the rest
            self._persist(file.name, lambda limit: self._advance(file.name, missing, descriptor, limit))

    def _advance(self, name: str, missing: deque[range], descriptor: int, limit: float) -> None:
        """Read what is missing, several ranges at a time, until all is there or one of them fails.

        Raises:
            _Failed: nothing has come at all.
        """
        running: dict[Future, tuple[range, float]] = {}
        came, failed = False, None
        while running or (missing and not failed):
            while missing and not failed and len(running) < PARALLEL:
                part = missing.popleft()
                running[self._begin(name, part, limit)] = part, time.monotonic() + limit
            wait(running, min(end for _, end in running.values()) - time.monotonic(), FIRST_COMPLETED)
            for future, (part, end) in list(running.items()):
                if not future.done() and time.monotonic() < end:
                    continue
                del running[future]
                try:
                    data = self._result(name, future, part)
                except _Failed as error:
                    failed = error
                    missing.append(part)
                    continue
                came = True
                _write_all(descriptor, data, part.start)
        if failed and not came:
            raise failed

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
            raise _Failed("no answer in time")
        error = future.exception()
        if isinstance(error, FileNotFoundError):
            raise NotThereError(f"{self.url}/{name}: is not there") from None
        if error is not None and _is_hopeless(error):
            raise DataError(f"{self.url}/{name}: {_hopeless_reason(error)}") from None
        if error is not None:
            raise _Failed("no answer in time" if isinstance(error, TimeoutError) else _in_short(error))
        data = future.result()
        if part is not None and len(data) > len(part):
            raise DataError(
                f"{self.url}/{name}: the server does not serve parts of files (HTTP's Range); use one that does"
            )
        if part is not None and len(data) < len(part):
            raise _Failed(f"{len(data)} bytes of {len(part)}")
        return data

    def _persist(self, name: str, attempt: Callable[[float], Made]) -> Made:
        """Try until something comes; `attempt` is given its time limit."""
        start = time.monotonic()
        retrying = Retrying(
            retry=retry_if_exception_type(_Failed),
            stop=self._gives_up,
            wait=wait_random_exponential(self._patience.pause, self._patience.longest_pause),
            before_sleep=lambda state: self._warn(name, state),
        )
        try:
            for turn in retrying:
                with turn:
                    made = attempt(self._patience.limit_of(turn.retry_state.attempt_number))
        except RetryError as error:
            last, outage = error.last_attempt, self._outage
            passed = time.monotonic() - (outage.since if outage else start)
            raise DataError(
                f"{self.url}/{name}: cannot be read ({last.exception()}); tried {last.attempt_number} times, with "
                f"nothing for {passed:.0f} s; look at the network and the server, and run again"
            ) from None
        self._outage = None
        return made

    def _gives_up(self, state: RetryCallState) -> bool:
        """Note a try that has failed; whether it was the last one."""
        now, outage = time.monotonic(), self._outage
        if outage is None or now - outage.last > self._patience.give_up:  # that one may be over
            outage = self._outage = _Outage(state.start_time, now)
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


def _is_hopeless(error: BaseException) -> bool:
    """Whether to try again would be in vain: the answer is about the file or the right to read it."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in TOO_EARLY
    if isinstance(error, HOPELESS) or "Credential" in type(error).__name__:
        return True
    if isinstance(error, OSError):
        return error.errno in HOPELESS_ERRNO
    return type(error).__module__ == "builtins"  # a mistake: the libraries' own are of the network


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, wherever its library puts it."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if str(found := getattr(holder, name, None)).isdigit():
                return int(found)
    return None


def _hopeless_reason(error: BaseException) -> str:
    denied = isinstance(error, PermissionError) or _status(error) in (401, 403)
    if denied or "Credential" in type(error).__name__:
        return f"access is denied ({_in_short(error)}); give credentials where the protocol's library looks for them"
    return f"cannot be read ({_in_short(error)})"


def _in_short(error: BaseException) -> str:
    """An error in one line."""
    text = address.without_secrets(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
