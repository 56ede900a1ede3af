"""What of its host a worker takes, cores and one GPU, which TensorFlow wants to know before it does anything; and how
what is there comes into TensorFlow."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import numpy as np
import tensorflow as tf

from hvd_imagenet.backend import Batch
from hvd_imagenet.gpu import Gpu, identify


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


def choose_device(local_rank: int) -> tuple[int, Gpu] | tuple[None, None]:
    """Number and names of this worker's GPU: one each where all are seen, or the only one that is."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None, None
    device_id = local_rank % len(gpus)
    tf.config.set_visible_devices(gpus[device_id], "GPU")
    tf.config.experimental.set_memory_growth(gpus[device_id], True)
    return device_id, identify(device_id)


def joined(batches: list[Batch]) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and labels of batches in TensorFlow; of one, on a GPU without a copy."""
    images, labels = zip(*batches, strict=True)
    return tuple(
        tf.concat(list(map(tensor, part)), 0) if len(part) > 1 else tensor(part[0]) for part in (images, labels)
    )


def tensor(array: Any) -> tf.Tensor:
    """What has ``__dlpack__`` in TensorFlow; on a GPU without a copy."""
    on_cpu = array.__dlpack_device__()[0] == 1  # DLPack's kDLCPU
    if on_cpu:  # where TensorFlow ends the process if memory is not aligned as its own
        return tf.convert_to_tensor(np.from_dlpack(array))
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
