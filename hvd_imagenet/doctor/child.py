"""A process of its own for what may hang or crash: it answers requests that come as lines of JSON."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from hvd_imagenet.errors import RunError

PR_SET_PDEATHSIG = 1  # prctl.h
LEAVING_SECONDS = 10  # in which MPI and Horovod say farewell to the other workers


class ChildError(Exception):
    """A request was not answered: why, in one line."""


class Child:
    """A process that answers with the functions of one module of this package; one request at a time.

    Args:
        module: its name below ``hvd_imagenet.doctor``.
    """

    def __init__(self, module: str):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, module],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it finds what this one finds
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._received = b""
        self._busy = False

    def ask(self, function: str, seconds: float, **arguments: Any) -> Any:
        """What a function returns, as JSON has it.

        Raises:
            RunError: the function did.
            ChildError: it raised something else, the process died of it, or it takes longer than these seconds.
        """
        self._busy = True
        request = json.dumps({"function": function, "arguments": arguments}, default=dataclasses.asdict)
        with suppress(OSError):  # it has died, which is told below
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        answer = json.loads(self._line(seconds))
        self._busy = False
        if "refused" in answer:
            raise RunError(answer["refused"])
        if "crashed" in answer:
            raise ChildError(answer["crashed"])
        return answer["returned"]

    def end(self) -> None:
        """Let the process end by itself if it is idle, or kill it; one that the system cannot end is not waited for."""
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if self._busy else LEAVING_SECONDS)
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._process.stdout.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def _line(self, seconds: float) -> bytes:
        give_up = time.monotonic() + seconds
        while b"\n" not in self._received:
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise ChildError(f"no answer within {seconds:g} s")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise ChildError(self._cause_of_death())
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _cause_of_death(self) -> str:
        status = self._process.wait(5)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "nothing said")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"ended by {how}: {last}"


def main(module: str) -> None:
    """Answer requests until nobody is there any more to ask."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a hanging one does not outlive who asked
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    part = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            part = part or importlib.import_module(f"{__package__}.{module}")
            answer = {"returned": getattr(part, request["function"])(**request["arguments"])}
        except RunError as error:
            answer = {"refused": str(error)}
        except Exception as error:  # a line of the report, not a traceback
            answer = {"crashed": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer, default=dataclasses.asdict), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
