"""What of its host a worker takes: cores and one GPU. TensorFlow wants to know both before it does anything."""

from __future__ import annotations

import ctypes
import os
import uuid
from contextlib import suppress

import tensorflow as tf


def set_threads(local_size: int) -> int:
    """Give TensorFlow this worker's part of the host's cores; how many these are.

    TensorFlow's threads are set before the workers can meet. So the cores to share out are those of the parent, the
    launcher, which is not bound to a part of them where its workers are.

    Args:
        local_size: workers on this host.
    """
    mine, all_of_us = (len(os.sched_getaffinity(process)) for process in (0, os.getppid()))
    cores = max(1, min(mine, max(mine, all_of_us) // local_size))
    with suppress(RuntimeError):  # TensorFlow has begun already: the threads stay as they are
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        # At least two operations at a time, so that one need not wait for the longest.
        tf.config.threading.set_inter_op_parallelism_threads(max(2, cores))
    return cores


def choose_device(local_rank: int) -> tuple[int, str] | tuple[None, None]:
    """Number and unique name of this worker's GPU: one each where all are seen, or the only one that is."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None, None
    device_id = local_rank % len(gpus)
    tf.config.set_visible_devices(gpus[device_id], "GPU")
    tf.config.experimental.set_memory_growth(gpus[device_id], True)
    return device_id, _unique_name(device_id)


def _unique_name(device_id: int) -> str:
    """A GPU's UUID, from the driver: TensorFlow does not tell it."""
    driver = ctypes.CDLL("libcuda.so.1")
    device, name = ctypes.c_int(), (ctypes.c_byte * 16)()
    for status in (
        driver.cuInit(0),
        driver.cuDeviceGet(ctypes.byref(device), device_id),
        driver.cuDeviceGetUuid_v2(name, device),
    ):
        if status != 0:
            raise RuntimeError(f"CUDA's driver cannot tell the name of GPU {device_id} (error {status})")
    return str(uuid.UUID(bytes=bytes(name)))
