"""In a process of its own: MPI and Horovod, which may hang or crash; loaded last."""

from __future__ import annotations

import statistics
from typing import Any

from hvd_imagenet.backend import import_part

STALL_SECONDS = 30  # Gloo's patience is this and 30 more
ROUNDS, WARM_UP = 6, 2


def meet(value: Any) -> list[Any]:
    """Every worker's value in the order of the ranks, over MPI; one alone where MPI sees no other."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.allgather(value)


def load(framework: str) -> dict[str, Any]:
    """Load a framework and Horovod for it: what Horovod is built with, and whether training would run on a GPU.

    Raises:
        SettingsError: see ``import_part``.
    """
    probe = import_part(framework, "probe")
    return {"built": probe.built(), "on_gpu": probe.on_gpu()}


def start(framework: str) -> dict[str, Any]:
    """Let Horovod meet the other workers, and sum something: see ``probe.start``, with the sum of 1 of each."""
    probe = import_part(framework, "probe")
    return {**probe.start(STALL_SECONDS), "sum": probe.sum_seconds(1, 1)[0]}


def reduce_seconds(framework: str, elements: int) -> float:
    """Median time of an all-reduce of so many float32."""
    return statistics.median(import_part(framework, "probe").sum_seconds(elements, ROUNDS)[1][WARM_UP:])
