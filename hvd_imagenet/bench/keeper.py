"""Starts a contestant's commands, and sees to it that nothing of them is left: not when one of them ends, nor when the
bench closes this process's input, nor when the bench is killed.

Launchers put what they start into groups and sessions of their own, stopped processes do not notice that their parent
has died, and who has no parent any more is nobody's descendant. So this process, never stopped itself, adopts them all.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil

PR_SET_CHILD_SUBREAPER = 36  # prctl.h
LEAVING_SECONDS = 3  # in which mpirun removes its files


def main(file: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    # The kernel's to all of this group, when the bench is gone and some of it are stopped. A handler, since what is
    # ignored would be so by all that is started.
    signal.signal(signal.SIGHUP, lambda *_: None)
    started = [
        subprocess.Popen(
            command["arguments"],
            env={**os.environ, **command["environment"]},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        for command in json.loads(Path(file).read_text())
    ]
    ended, tell = os.pipe()
    Thread(target=_reap, args=({process.pid for process in started}, tell), daemon=True).start()
    select.select([sys.stdin, ended], [], [])
    _end()


def _reap(pids: set[int], tell: int) -> None:
    """Take leave of all that end, adopted ones too, and tell if one of these has."""
    with suppress(ChildProcessError):
        while True:
            pid, _ = os.wait()
            if pid in pids:
                os.write(tell, b".")


def _end() -> None:
    """End all descendants, stopped or not."""
    for number in (signal.SIGTERM, signal.SIGCONT):
        _send(number)
    deadline = time.monotonic() + LEAVING_SECONDS
    while psutil.Process().children(recursive=True):
        if time.monotonic() > deadline:
            _send(signal.SIGKILL)
        time.sleep(0.01)


def _send(number: int) -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
