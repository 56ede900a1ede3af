"""All workers of a run, from the first check to the last exit: they begin together and end together."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hvd_imagenet.backend import Backend
from hvd_imagenet.config import FaultSettings
from hvd_imagenet.elastic import Elastic
from hvd_imagenet.errors import LostContactError, RunError
from hvd_imagenet.faults import link
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.faults.status import JOB_STATUS, Ending, Status, ending_of
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.faults.watchdog import ACCOUNT_SECONDS, FIRST_SECONDS, Watchdog
from hvd_imagenet.faults.witness import Witness
from hvd_imagenet.run_directory import RunDirectory

LAUNCHER_SECONDS = 10  # a launcher that gives up a worker may be about to end itself
WRITE_SECONDS = 60  # how long a worker that ends the job waits for its own checkpoint
CLOCKS = 60 * 10**9  # nanoseconds by which a file's time may be off, beside the difference of the clocks


class Job:
    """One worker's part in the job: a context, in which rank 0 claims the run's folder, and then all begin.

    Args:
        backend: joins the workers.
        run: the run's folder.
        faults: when the workers are checked upon.
        stop: requests to stop.
        elastic: this worker's part in an elastic job; None: all workers end where one is lost.

    Attributes:
        stop: requests to stop that this worker has got.
        elastic: as given.
        hosts: of all workers, by rank.
        writing: held while something is written that an end should not cut short.
    """

    def __init__(
        self,
        backend: Backend,
        run: RunDirectory,
        faults: FaultSettings,
        stop: StopRequests,
        elastic: Elastic | None = None,
    ):
        self.stop = stop
        self.elastic = elastic
        self.writing = threading.Lock()
        self._backend = backend
        self._run = run
        self._faults = faults
        self._born = time.time_ns()
        path = os.environ.get(JOB_STATUS)
        self._status = Status(Path(path) if path else None)
        self._lock: RunLock | None = None
        self._witness: Witness | None = None
        self._watchdog: Watchdog | None = None
        self._own_end = False  # the job ends for what this worker has found

    def __enter__(self) -> Job:
        self.hosts = self._backend.gather(socket.gethostname())
        self.stop.at_once = self._end_at_once
        if self.elastic:
            self.stop.lost_launcher = self._lost_launcher
        if self._faults.stall_seconds is not None and self._backend.size > 1:
            self._start_watchdog(self._faults.stall_seconds)
        return self

    def claim(self, resume: str) -> bool:
        """Take the run's folder for this job; for rank 0 only.

        Args:
            resume: no, auto or always.

        Returns:
            Whether there is a run in it to go on with.

        Raises:
            SettingsError: it is in use, by another job or for something else.
        """
        anew = bool(self.elastic and self.elastic.anew)
        resume = "auto" if anew else resume
        self._run.holds_run(resume)
        lock = RunLock(self._run.lock)
        lock.acquire(lambda text: print(text, flush=True))
        self._lock = lock
        known = max(lock.held_until, self._born + lock.ahead - CLOCKS)
        # A job that begins anew is the one that a request is to.
        if not anew and self._run.stop.exists() and self._run.stop.stat().st_mtime_ns <= known:
            self._run.stop.unlink()  # a request to a job before, which has not come to heed it
        return self._run.holds_run(resume)  # a job that was waited for may have left its run in it

    def begin(self) -> None:
        """From now on, the run's status.json tells what becomes of the job."""
        me = {"rank": self._backend.rank, "host": socket.gethostname(), "pid": os.getpid()}
        workers = self._backend.gather(me)
        # Of worker 0: where nobody has named the folder, it is called by the date, which others may see differently.
        self._status.job, self._status.path = self._backend.gather((secrets.token_hex(8), self._run.status))[0]
        if self._backend.rank == 0:
            self._status.running(workers)
            self.stop.file = self._run.stop
        self.expect_progress()
        self._backend.gather(None)  # nobody tells of an end before the account has begun
        self._witness = Witness(self._status, **me)
        if self.elastic:
            self.elastic.all_have_joined()

    def expect_progress(self) -> None:
        """From now on, a worker that gets no further for too long ends the job; before, it may be preparing."""
        if self._watchdog and self._sees_all:
            self._watchdog.expect_progress()

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if self.elastic and isinstance(error, RunError):
            self.elastic.leave_out_newcomers(error)
        together = error is None or (isinstance(error, RunError) and error.everywhere)
        if not together and self._backend.size > 1:
            self._end_alone(error)
        if self._backend.rank == 0:
            self._status.end(ending_of(error, self.hosts, 0) if error else Ending(0, "done"))
            if self._witness:
                self._run.stop.unlink(missing_ok=True)
        try:
            self._backend.gather(None)  # the first to exit makes the launcher end all: none may be writing then
        except LostContactError as lost:
            self._end_alone(lost)
        if isinstance(error, RunError):
            error.settled = True
        if self._watchdog:
            self._watchdog.close()
        if self._witness:
            self._witness.dismiss()
        if self._lock:
            self._lock.release()

    def _start_watchdog(self, stall_seconds: float) -> None:
        backend = self._backend
        watchdog = self._watchdog = Watchdog(
            self.hosts, stall_seconds, self._status, lambda: backend.pulse, self._leave
        )
        server, address = link.listen() if backend.rank == 0 else (None, None)
        address = backend.gather(address)[0]
        if server:
            watchdog.serve(server, address)
            missing = backend.gather(False)
        else:
            connection = link.connect(address, backend.rank)
            missing = backend.gather(connection is None)
            if connection:
                watchdog.follow(connection)
            else:
                self._watchdog = None
        self._sees_all = backend.rank == 0 and not any(missing)
        if backend.rank == 0 and any(missing):
            who = ", ".join(f"{rank} on {self.hosts[rank]}" for rank, gone in enumerate(missing) if gone)
            print(
                f"warning: worker 0 cannot be reached on {', '.join(address.hosts)}, port {address.port}, by worker "
                f"{who}: if one of them stops answering or hangs, nobody will notice; is there a firewall?",
                flush=True,
            )

    def _end_alone(self, error: BaseException) -> NoReturn:
        """End all, since the others wait for this worker; they end first, or once they are done with writing."""
        if isinstance(error, LostContactError):  # somebody else is the reason: let it be told
            give_up = time.monotonic() + ACCOUNT_SECONDS + 2 * FIRST_SECONDS
            while time.monotonic() < give_up and not self._status.ended():
                time.sleep(0.05)
        elif not isinstance(error, RunError):
            traceback.print_exception(error)
        ending = self._status.ended() or ending_of(error, self.hosts, self._backend.rank)
        self._own_end = not isinstance(error, LostContactError)
        if self._watchdog:
            self._watchdog.report(ending)
            time.sleep(WRITE_SECONDS + ACCOUNT_SECONDS)  # the watchdog ends this process before
        self._leave(ending, self._status.end(ending))

    def _leave(self, ending: Ending, first: bool) -> NoReturn:
        """End this process; Python's own way out would wait for the others."""
        self.writing.acquire(timeout=WRITE_SECONDS)
        self._say_last(ending, first)
        if self._watchdog:
            self._watchdog.broadcast(ending)
        if self.elastic and ending.exit_code == LostContactError.exit_code and not self._own_end:
            self.begin_anew(ending.reason.partition(";")[0])  # the remedy is this
        os._exit(ending.exit_code)

    def begin_anew(self, reason: str) -> NoReturn:
        """Go on from what is committed, with the workers that there are then; in an elastic job."""
        if self._witness:
            self._witness.dismiss()
        self.elastic.begin_anew(reason)

    def _lost_launcher(self) -> None:
        """In an elastic job, the launcher may have given up this worker alone; without it, all are to stop."""
        give_up = time.monotonic() + LAUNCHER_SECONDS
        while self.elastic.launcher_answers():
            if time.monotonic() > give_up:
                self._end_alone(RunError("given up by the launcher, which has lost its connection to this worker"))
            time.sleep(1)
        self.stop.ask("lost its launcher")

    def _end_at_once(self, number: int) -> None:
        name = signal.Signals(number).name
        host = self.hosts[self._backend.rank]
        reason = f"worker {self._backend.rank} on {host} ended at once, without saving, on a second {name}"
        ending = Ending(128 + number, f"{reason}; --resume goes on from the last checkpoint", self._backend.rank, host)
        self._say_last(ending, self._status.end(ending))

    def _say_last(self, ending: Ending, first: bool) -> None:
        if first:
            with suppress(OSError):
                os.write(sys.stderr.fileno(), f"hvd-imagenet: error: {ending.reason}\n".encode())
        if self._witness:
            self._witness.dismiss()
