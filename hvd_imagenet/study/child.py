"""Becomes a run's command, bound to some cores, and asked to stop when the study that has begun it is gone.

    python -m hvd_imagenet.study.child STUDY_PID CORES COMMAND [ARGUMENT ...]

Cores are numbers with a comma between; none: those that this process has.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # sys/prctl.h


def main(study: str, cores: str, *command: str) -> None:
    """Run a command in the place of this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # to workers and launchers, a request to save and end
    if os.getppid() != int(study):
        sys.exit("the study has ended before its run could begin")
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
