"""In a process of its own: MPI and Horovod, which may hang or crash; loaded last."""

from __future__ import annotations

import ctypes
import os
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

    As "versions", the framework's CUDA and the NCCL that has been loaded; none of either where it is built without.

    Raises:
        SettingsError: see ``import_part``.
    """
    probe = import_part(framework, "probe")
    versions = {name: found for name, found in {"CUDA": probe.cuda(), "NCCL": nccl()}.items() if found}
    return {"built": probe.built(), "on_gpu": probe.on_gpu(), "versions": versions}


def nccl() -> str | None:
    """The version of the NCCL in this process, such as 2.29.7; None: it has loaded none."""
    number = ctypes.c_int()
    try:
        library = ctypes.CDLL("libnccl.so.2", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return None
    if library.ncclGetVersion(ctypes.byref(number)) != 0:
        return None
    major, rest = divmod(number.value, 10000)
    return f"{major}.{rest // 100}.{rest % 100}"


def start(framework: str) -> dict[str, Any]:
    """Let Horovod meet the other workers, and sum something: see ``probe.start``, with the sum of 1 of each."""
    probe = import_part(framework, "probe")
    return {**probe.start(STALL_SECONDS), "sum": probe.sum_seconds(1, 1)[0]}


def reduce_seconds(framework: str, elements: int) -> float:
    """Median time of an all-reduce of so many float32."""
    return statistics.median(import_part(framework, "probe").sum_seconds(elements, ROUNDS)[1][WARM_UP:])
