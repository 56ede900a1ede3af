"""A contestant's process: does its work in blocks, as it is told to, and tells what they came to.

Started by ``hvd_imagenet.bench.contestant``, with the file of its task, beside which is the socket that it answers by.
Of processes that work together, only the first one does; each of them tells of an error.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from hvd_imagenet.bench.work import Turns
from hvd_imagenet.errors import RunError


def main(file: str) -> None:
    task, place = json.loads(Path(file).read_text()), Path(file).with_name("socket")
    if task["cores"]:
        os.sched_setaffinity(0, task["cores"])  # before any thread is made: all that will be are bound as well
    try:
        folder, _, module = task["module"].rpartition(".")
        work = importlib.import_module(folder).work(module, task["arguments"])
        turns = Turns(work)
        while work.rank > 0:
            turns.follow()
        _answer(connected(place), turns)
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, RunError)
        _say(connected(place), {"failed": str(error) if known else f"{type(error).__name__}: {error}"})
        os._exit(1)


def connected(place: Path) -> socket.socket:
    """A connection to the bench."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(place))
    return connection


def _answer(connection: socket.socket, turns: Turns) -> None:
    """Do what each line asks for, until there are no more."""
    _say(connection, {})
    with connection.makefile() as lines:
        for line in lines:
            _say(connection, {"answer": turns.lead(**json.loads(line))})


def _say(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # without waiting for threads that read ahead
