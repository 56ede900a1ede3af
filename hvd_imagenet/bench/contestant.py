"""A contestant's process: makes batches for as long as each line of its input says, and tells how many it made.

Started by ``hvd_imagenet.bench.blocks``, with a module of ``hvd_imagenet.bench.loaders``, the task and its cores.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sized

from hvd_imagenet.bench.loaders import Task

WARM_UP_BATCHES = 8


def main(module: str, task: str, cores: str) -> None:
    os.sched_setaffinity(0, json.loads(cores))  # before any thread is made: all that will be are bound as well
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    batches = importlib.import_module(f"hvd_imagenet.bench.loaders.{module}").batches(Task(**json.loads(task)))
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    print("[]", file=answers)
    for line in sys.stdin:
        print(json.dumps(block(batches, float(line))), file=answers)


def block(batches: Iterator[Sized], seconds: float) -> tuple[int, float]:
    """Images made, and seconds taken, until at least so many seconds are over."""
    start, images, taken = time.perf_counter(), 0, 0.0
    while taken < seconds:
        images += len(next(batches))
        taken = time.perf_counter() - start
    return images, taken


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # without waiting for threads that read ahead
