"""status.json: what has become of a job, for launch scripts and schedulers. The first failure wins."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import RunError, StoppedError

JOB_STATUS = "HVD_IMAGENET_STATUS"  # names a file for the status of a job that has not come to its run's folder
CLAIM_SECONDS = 2  # after which a half-written status is that of a process which is gone
FILE_SECONDS = 5  # after which a file system is taken to hang

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        exit_code: of every worker, and of the launch script.
        reason: in one line, with the remedy.
        rank, host: of the worker that it began with, if with one.
    """

    exit_code: int
    reason: str
    rank: int | None = None
    host: str | None = None

    @property
    def status(self) -> str:
        return {0: "done", StoppedError.exit_code: "stopped"}.get(self.exit_code, "failed")


def ending_of(error: BaseException, hosts: list[str], rank: int) -> Ending:
    """The ending that an exception on worker `rank` stands for."""
    if not isinstance(error, RunError):
        return Ending(RunError.exit_code, f"worker {rank} on {hosts[rank]}: {error!r}", rank, hosts[rank])
    began = error.rank if error.everywhere else rank
    text = str(error) if error.everywhere else f"worker {rank} on {hosts[rank]}: {error}"
    return Ending(error.exit_code, text, began, hosts[began])


class Status:
    """The account of one job.

    Attributes:
        path: of the file; None: nothing is written, and whoever asks is the first to tell.
        job: what tells this job from those before and after it in the same folder: their accounts are left alone.
    """

    def __init__(self, path: Path | None, job: str | None = None):
        self.path = path
        self.job = job

    @property
    def _claim(self) -> Path:
        return self.path.with_name(f"{self.path.name}.claim")

    def running(self, workers: list[dict[str, Any]]) -> None:
        """Begin a new account.

        Args:
            workers: rank, host and pid of each.
        """
        self._write({"status": "running", "exit_code": None, "reason": None, "rank": None, "host": None}, workers)
        self._claim.unlink(missing_ok=True)

    def end(self, ending: Ending) -> bool:
        """Write how the job ended, unless it is known already; whether this was the first to write it.

        Nothing is raised: where the file cannot be written, what stands in it stays. Nor does it take longer than
        some seconds: the file may be on the very server whose failure ends the job.
        """
        return self.path is None or _within(FILE_SECONDS, lambda: self._end(ending), otherwise=True)

    def _end(self, ending: Ending) -> bool:
        with suppress(OSError):
            if not self._claimed():
                return False
            try:
                known = self.read() or {}
                if known.get("job") != self.job:
                    return True
                if known.get("status", "running") != "running":
                    return False
                self._write({"status": ending.status, **dataclasses.asdict(ending)}, known.get("workers", []))
            finally:
                self._claim.unlink(missing_ok=True)
        return True

    def ended(self) -> Ending | None:
        """How the job ended, if it has; None, too, where the file cannot be read in some seconds."""
        return _within(FILE_SECONDS, self._ended, otherwise=None)

    def _ended(self) -> Ending | None:
        known = self.read()
        if known is None or known.get("job") != self.job or known.get("status", "running") == "running":
            return None
        return Ending(**{field.name: known.get(field.name) for field in dataclasses.fields(Ending)})

    def over(self) -> bool:
        """Whether the job has ended, or another one has come after it."""
        known = self.read()
        return known is not None and (known.get("job") != self.job or known.get("status", "running") != "running")

    def read(self) -> dict[str, Any] | None:
        """What stands in the file; None where there is none."""
        with suppress(OSError, ValueError):
            known = json.loads(self.path.read_text()) if self.path else None
            return known if isinstance(known, dict) else None
        return None

    def _claimed(self) -> bool:
        """Whether this process is the one to write; another that writes just now is given time to."""
        give_up = time.monotonic() + CLAIM_SECONDS
        while True:
            try:
                os.close(os.open(self._claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return True
            except FileExistsError:
                if self._ended():
                    return False
                if time.monotonic() > give_up:
                    self._claim.unlink(missing_ok=True)
                time.sleep(0.05)

    def _write(self, values: dict[str, Any], workers: list[dict[str, Any]]) -> None:
        account = {**values, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "job": self.job, "workers": workers}
        write_whole(self.path, (json.dumps(account, indent=1, ensure_ascii=False) + "\n").encode())


def _within(seconds: float, do: Callable[[], _Result], otherwise: _Result) -> _Result:
    """What a function returns, or something else if it takes longer; it is then left alone."""
    results: list[_Result] = []
    thread = threading.Thread(target=lambda: results.append(do()), daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else otherwise
