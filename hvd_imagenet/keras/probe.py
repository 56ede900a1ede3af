"""Horovod as it is in TensorFlow here: what it is built with, what it chose for this job, and how long a sum takes."""

from __future__ import annotations

import time
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf

from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.joining import horovod_set
from hvd_imagenet.keras.device import choose_device


def built() -> dict[str, bool]:
    """Which transports Horovod has been built with."""
    return {"NCCL": bool(hvd.nccl_built()), "MPI": bool(hvd.mpi_built()), "Gloo": bool(hvd.gloo_built())}


def cuda() -> str | None:
    """The version of CUDA that TensorFlow is built for; None: it is a build for CPUs."""
    return tf.sysconfig.get_build_info().get("cuda_version")


def on_gpu() -> bool:
    """Whether training would run on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def start(stall_seconds: float) -> dict[str, Any]:
    """Meet all other workers: how many there are, which one this is, and whether MPI or Gloo brought them together."""
    with horovod_set(AllreduceSettings(), on_gpu(), stall_seconds, step_seconds=None):
        hvd.init()
    choose_device(hvd.local_rank())
    return {"rank": hvd.rank(), "size": hvd.size(), "controller": "MPI" if hvd.mpi_enabled() else "Gloo"}


def sum_seconds(elements: int, rounds: int) -> tuple[float, list[float]]:
    """Sum so many ones, float32, over all workers, again and again.

    Returns:
        The first element of the last sum, and the seconds of each round.
    """
    tensor = tf.ones(elements)
    seconds, first = [], 0.0
    for _ in range(rounds):
        begun = time.perf_counter()
        first = float(hvd.allreduce(tensor, op=hvd.Sum, name=f"probe.{elements}")[0])
        seconds.append(time.perf_counter() - begun)
    return first, seconds
