"""A small process beside each worker that tells of its end if the worker cannot: killed, or crashed.

    python -m hvd_imagenet.faults.witness STATUS_FILE JOB RANK HOST PID

The worker holds the other end of the witness's standard input. Its end of file is the worker's end; whatever comes
before is the last word of a crashing one, from faulthandler, or `FAREWELL` from one that has told itself. A worker that
stays when its job has ended long since, stopped by somebody or hanging in the system, is killed by its witness.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from hvd_imagenet.errors import LostContactError
from hvd_imagenet.faults.status import Ending, Status

FAREWELL = b"farewell"
LOOK_SECONDS = 15  # between two looks at the job's status, by the witnesses of all workers
STAY_SECONDS = 90  # more than a worker takes that waits for its checkpoint to be written
CRASHES = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}


class Witness:
    """A worker's hold on its witness.

    Args:
        status: of the job.
        rank, host, pid: of the worker.
    """

    def __init__(self, status: Status, rank: int, host: str, pid: int):
        arguments = status.path, status.job, rank, host, pid
        command = [sys.executable, "-P", "-m", "hvd_imagenet.faults.witness", *arguments]
        # In a session of its own, and so out of reach of what ends the worker's process group.
        self._process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, start_new_session=True)
        self._had_faulthandler = faulthandler.is_enabled()
        faulthandler.enable(self._process.stdin, all_threads=False)

    def dismiss(self) -> None:
        """The worker tells of its end itself."""
        faulthandler.disable()
        if self._had_faulthandler:
            faulthandler.enable(2)  # standard error
        with suppress(OSError, ValueError):  # the witness was ended or dismissed before
            self._process.stdin.write(FAREWELL)
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)


def main(status: str, job: str, rank: str, host: str, pid: str) -> None:
    """Wait for the worker's end, and tell of it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_if_it_stays, args=(Status(Path(status), job), int(pid)), daemon=True).start()
    last_words = sys.stdin.buffer.read()
    if last_words.endswith(FAREWELL):
        return
    crash = last_words.decode(errors="replace")
    reason = f"worker {rank} on {host} was ended by {_cause(int(pid), crash)}"
    ending = Ending(LostContactError.exit_code, f"{reason}; run again with --resume to go on", int(rank), host)
    first = Status(Path(status), job).end(ending)
    with suppress(OSError):
        print(crash, f"hvd-imagenet: error: {ending.reason}\n" if first else "", sep="", end="", file=sys.stderr)


def end_if_it_stays(status: Status, pid: int, look: float = LOOK_SECONDS, stay: float = STAY_SECONDS) -> None:
    """Kill this process's parent, a worker, if it is still there when its job has ended for some seconds.

    Args:
        status: of the job.
        pid: of the worker.
        look: seconds between two looks at the status; stay: after the end.
    """
    left = stay
    while left > 0:
        time.sleep(look)
        left = left - look if status.over() else stay  # a file server may tell what was true a minute ago
    if os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)


def _cause(pid: int, crash: str) -> str:
    """What ended a worker: as the system has it, or from its last words; without any, SIGKILL most likely."""
    how = _wait_status(pid)
    if how is not None and not how & 0x7F:
        return f"itself, unexpectedly, with exit status {how >> 8}"
    known = how & 0x7F if how else next((CRASHES[words] for words in CRASHES if words in crash), None)
    number = known or signal.SIGKILL
    cause = f"{signal.Signals(number).name} (signal {number:d}){'' if known else ', most likely'}"
    if number == signal.SIGKILL:
        cause += ": by somebody, or by the system because memory ran out (see dmesg)"
    return cause


def _wait_status(pid: int) -> int | None:
    """How a process ended; None where its parent has taken note of its end already."""
    for _ in range(20):
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            break
        if state == "Z":
            return int(fields[-1])
        time.sleep(0.005)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
