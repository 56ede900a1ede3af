"""A contestant that does nothing but write down how far it is, and fails where it is told to."""

import os
import signal
import sys
import time
from pathlib import Path

from hvd_imagenet.bench.work import Work


class Pretended(Work):
    """Args: log: a folder, for a file named as this process. fails: when, or how."""

    warm_up = 1

    def __init__(self, log=".", fails=None):
        self._file, self._fails, self._steps = Path(log, str(os.getpid())), fails, 0
        if fails == "at once":
            raise ValueError("no more of it")

    def take(self, steps):
        for _ in range(steps):
            time.sleep(0.005)
            self._steps += 1
            self._file.write_text(str(self._steps))
        if self._steps > 10 and self._fails == "in a block":
            raise ValueError("no more of it")
        if self._fails in ("killed", "silently"):
            if self._fails == "killed":
                sys.stderr.write("said before\n")  # at once, where two write to one file
            os.kill(os.getpid(), signal.SIGKILL)


def work(module, arguments):
    assert module == "anything"
    return Pretended(**arguments)
