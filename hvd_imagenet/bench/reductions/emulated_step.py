"""A step of the trainer in which the worker sleeps in place of computing, and exchanges what it would exchange."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch

from hvd_imagenet.bench.work import Work
from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.joining import horovod_set, meet_workers
from hvd_imagenet.torch.optim import sum_over_workers
from hvd_imagenet.totals import tail_length


class Emulated(Work):
    """Forward, then the step vector, then each bucket when a backward would have filled it; and the wait for all sums.

    The amount is a step.

    Args:
        seconds: of forward and backward; forward: the part of them that the forward takes.
        statistics: how many the running statistics are.
        buckets: when each is full, as a part of all those seconds, and how many numbers it has; in the order of time.
        allreduce: the settings of that name.
    """

    def __init__(
        self,
        seconds: float,
        forward: float,
        statistics: int,
        buckets: list[tuple[float, int]],
        allreduce: dict[str, Any],
    ):
        settings = AllreduceSettings(**allreduce)
        with horovod_set(settings, on_gpu=False, stall_seconds=None, step_seconds=seconds):
            meet_workers(hvd)
        torch.set_num_threads(1)
        self.rank, self.size = hvd.rank(), hvd.size()
        self._seconds, self._forward = seconds, forward
        self._vector = torch.zeros(statistics + tail_length(self.size))
        sent = torch.float16 if settings.compression == "fp16" else torch.float32
        self._buckets = [(part, torch.zeros(count, dtype=sent)) for part, count in buckets]

    def take(self, steps: int) -> None:
        for _ in range(steps):
            start = time.perf_counter()
            _sleep_until(start + self._forward * self._seconds)
            vector_is_there = sum_over_workers(self._vector, "step_vector")
            waits: list[Callable[[], object]] = []
            for number, (part, bucket) in enumerate(self._buckets):
                _sleep_until(start + part * self._seconds)
                waits.append(sum_over_workers(bucket, f"gradients.{number}"))
            for wait in (*waits, vector_is_there):
                wait()

    def gather(self, value: Any) -> list[Any]:
        return hvd.allgather_object(value, name="gather")


def _sleep_until(moment: float) -> None:
    """By the clock, so that no time to fall asleep and wake up is added up."""
    left = moment - time.perf_counter()
    if left > 0:
        time.sleep(left)


def work(**arguments: Any) -> Emulated:
    return Emulated(**arguments)
