"""Importing TensorFlow and Keras without their start-up noise, and with the only backend that Horovod serves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from hvd_imagenet.errors import SettingsError

# What TensorFlow's libraries say of themselves before any setting of theirs can reach them.
NOISE = "^(WARNING: All log messages before absl|I0000 |To enable the following instructions:)"


def import_quietly() -> None:
    """Import both; what else they write to standard error while they load, such as a crash, stays.

    Raises:
        SettingsError: Keras uses another backend than TensorFlow.
        ImportError: one of them is not installed.
    """
    _require_tensorflow(os.environ.setdefault("KERAS_BACKEND", "tensorflow"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with nullcontext() if sys.modules.get("tensorflow") else _without_noise():
        import tensorflow as tf

        tf.config.list_physical_devices()  # the last that it says comes with its first use
        import keras
    _require_tensorflow(keras.backend.backend())
    try:
        import horovod.tensorflow  # noqa: F401
    except tf.errors.NotFoundError as error:  # a library that Horovod needs
        raise ImportError(error.message) from None


@contextmanager
def _without_noise() -> Iterator[None]:
    """Through another process, which has the last words to tell even where this one crashes."""
    sys.stderr.flush()
    real = os.dup(2)
    with subprocess.Popen(["grep", "-avE", NOISE], stdin=subprocess.PIPE, stdout=real) as telling:
        os.dup2(telling.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)


def _require_tensorflow(name: str) -> None:
    if name != "tensorflow":
        raise SettingsError(
            f"KERAS_BACKEND: {name}; Horovod has operations for Keras on tensorflow only: set it to tensorflow, before "
            "keras is imported"
        )
