"""Keras's backend, which tells its computing as one: a step is one function of TensorFlow's, whose parts overlap."""

from __future__ import annotations

import tensorflow as tf

from hvd_imagenet.backend import Batch
from hvd_imagenet.keras.backend import Backend

Timed = Backend


def placed(batch: Batch, device_id: int | None) -> Batch:
    """A batch of numpy's, on a device (None: the CPU, where it stays as it is)."""
    if device_id is None:
        return batch
    with tf.device("GPU:0"):  # the only one that the backend has left visible
        return Batch(*map(tf.identity, map(tf.constant, batch)))


__all__ = ["Backend", "Timed", "placed"]
