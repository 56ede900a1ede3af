"""One run of a study as a child process: begun, asked to stop, and what has become of it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.faults.status import JOB_STATUS, Ending, Status
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.study.definition import Run
from hvd_imagenet.study.folder import StudyFolder
from hvd_imagenet.study.shares import Share

WITNESS_SECONDS = 5  # what the process beside a worker may take to tell of its end
TAIL_BYTES = 8192  # of metrics.jsonl: some lines


def options(folder: StudyFolder, run: Run) -> list[str]:
    """What `hvd-imagenet train` needs to be told, to begin a run of a study or to go on with it."""
    settings = str(folder.settings(run.arm))
    return ["--config", settings, "--seed", str(run.seed), "--run", str(folder.run(run)), "--resume", "auto"]


def samples_seen(run: Path) -> int:
    """How far a run is, by the last of its logged steps."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError):  # it is being written, or begins before the tail
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "step":
                return event["samples_seen"]
    return 0


class Job:
    """A run's command, in a session of its own: what a terminal sends to the study does not reach it.

    Args:
        run: that it trains.
        launcher: command that it is started by; empty: a single worker needs none.
        share: of this machine, that it is kept to.
    """

    def __init__(self, folder: StudyFolder, run: Run, launcher: list[str], share: Share):
        self.run = run
        self.share = share
        self._directory = RunDirectory(folder.run(run))
        self._log = folder.log(run)
        # By what does not come to the run's folder; of this start alone, since another one may have begun the run, too.
        self._told = Status(folder.path / f"{run.name}.{secrets.token_hex(4)}.status")
        self._known = self._account().get("job")
        self._launched = bool(launcher)
        self._refused = False
        self._over: float | None = None
        self._asked = False
        train = [*launcher, sys.executable, "-m", "hvd_imagenet.cli", "train", *options(folder, run)]
        cores = ",".join(map(str, sorted(share.cores)))
        command = [sys.executable, "-P", "-m", "hvd_imagenet.study.child", str(os.getpid()), cores, *train]
        environment = {**os.environ, JOB_STATUS: str(self._told.path.resolve())}
        if share.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = share.gpu
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def has_begun(self) -> bool:
        """Whether it has passed all checks, and holds the run's folder or has held it."""
        account = self._account()
        return account.get("job") != self._known and not self._is_of_another(account)

    def _is_of_another(self, account: dict) -> bool:
        """Whether the account is of another start of the study, which has begun this run at the same time.

        Which workers a launcher has started is not known, on other hosts at least: of these, it shows when they have
        ended, since they have been refused, and have said so.
        """
        if self._launched:
            return self._refused
        first = (account.get("workers") or [{}])[0]
        return (first.get("host"), first.get("pid")) != (socket.gethostname(), self._process.pid)

    def stop(self) -> None:
        """Ask it to save and end; what has not begun has nothing to save, and ends."""
        if self.has_begun():
            with suppress(OSError):
                self._directory.stop.touch()
                self._asked = True
        else:
            self.end_at_once()

    def end_at_once(self) -> None:
        """End it, saved or not, if it has been asked before."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)

    def ended(self) -> Ending | None:
        """How it has ended; None: it has not."""
        code = self._process.poll()
        if code is None:
            return None
        self._over = self._over or time.monotonic()
        told = self._told.ended()
        self._refused = told is not None and told.exit_code == SettingsError.exit_code
        if self.has_begun():
            ending = Status(self._directory.status, self._account()["job"]).ended()
            if ending is None and time.monotonic() - self._over < WITNESS_SECONDS:
                return None
        else:
            ending = told
        self._tidy_up()
        code = code if code >= 0 else 128 - code
        return ending or Ending(code, f"it ended with status {code}, and has not said why; see {self._log}")

    def _account(self) -> dict:
        return Status(self._directory.status).read() or {}

    def _tidy_up(self) -> None:
        self._told.path.unlink(missing_ok=True)
        if self._asked:
            self._directory.stop.unlink(missing_ok=True)
