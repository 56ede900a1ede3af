"""Runs what is left of a study, one run after the other or some side by side, until all have ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.faults.status import Ending
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.study.definition import Run
from hvd_imagenet.study.display import Display
from hvd_imagenet.study.folder import StudyFolder
from hvd_imagenet.study.job import Job
from hvd_imagenet.study.outcome import error_of
from hvd_imagenet.study.shares import Share

LOOK_SECONDS = 0.2


@dataclass
class Left:
    """The runs that have no result.

    Attributes:
        failed: they may do so again.
        stopped: as asked; with those that have not begun.
        asked: what has asked the whole study to stop; empty: nothing has.
    """

    failed: list[Run] = field(default_factory=list)
    stopped: list[Run] = field(default_factory=list)
    asked: str = ""


class Runner:
    """One start of a study.

    Args:
        folder: prepared.
        launcher: command that each run is started by; empty: none.
        shares: of this machine, for as many runs at a time.
        display: told of what happens.
    """

    def __init__(self, folder: StudyFolder, launcher: list[str], shares: list[Share], display: Display):
        self._folder = folder
        self._launcher = launcher
        self._free = list(shares)
        self._display = display
        self._waiting = [run for run in folder.study.runs() if not folder.is_done(run)]
        self._locks = {run.name: RunLock(folder.run(run) / "lock") for run in self._waiting}
        self._told: set[str] = set()
        self._jobs: list[Job] = []
        self._left = Left()

    def run(self) -> Left:
        """Give every run its result, as far as can be; those that have none then."""
        with StopRequests() as stop:
            stop.at_once = lambda number: [job.end_at_once() for job in self._jobs]
            while self._jobs or (self._waiting and not stop.asked):
                if stop.asked and not self._left.asked:
                    for job in self._jobs:
                        job.stop()
                self._left.asked = stop.asked
                self._begin()
                self._look()
                self._display.update()
                time.sleep(LOOK_SECONDS)
            self._left.asked = stop.asked
        self._left.stopped += self._waiting
        return self._left

    def _begin(self) -> None:
        """Begin runs where there is room, but for those that another start of the study is at."""
        for run in list(self._waiting):
            if not self._free or self._left.asked:
                return
            if self._folder.is_done(run):
                self._waiting.remove(run)
                self._tell_result(run)
            elif not self._is_elsewhere(run):
                self._waiting.remove(run)
                self._display.begin(run)
                self._start(run)

    def _start(self, run: Run) -> None:
        try:
            self._jobs.append(Job(self._folder, run, self._launcher, self._free[0]))
            self._free.pop(0)
        except OSError as error:
            self._fail(run, f"cannot be begun ({error.strerror})")

    def _is_elsewhere(self, run: Run) -> bool:
        elsewhere = self._locks[run.name].in_use()
        if elsewhere and run.name not in self._told:
            self._told.add(run.name)
            self._display.say(f"{run.name}: is in use by another job; waiting for it")
        return elsewhere

    def _look(self) -> None:
        """See which runs have ended, and how."""
        for job in list(self._jobs):
            ending = job.ended()
            if ending is not None:
                self._jobs.remove(job)
                self._free.append(job.share)
                self._take(job, ending)

    def _take(self, job: Job, ending: Ending) -> None:
        if self._folder.is_done(job.run):
            self._tell_result(job.run)
        elif ending.status == "stopped" or self._left.asked:
            self._left.stopped.append(job.run)
            self._display.end(job.run, "stopped", done=False)
        elif not job.has_begun() and self._is_elsewhere(job.run):  # that other one has been faster
            self._waiting.append(job.run)
            self._display.end(job.run, "waits", done=False)
        else:
            self._fail(job.run, ending.reason)

    def _tell_result(self, run: Run) -> None:
        self._display.end(run, f"error {error_of(self._folder.run(run)):.2f} %", done=True)

    def _fail(self, run: Run, reason: str) -> None:
        self._left.failed.append(run)
        self._display.end(run, f"failed: {reason}", done=False)
