"""Importing TensorFlow and Keras without their start-up noise, and with the only backend that Horovod serves."""

from __future__ import annotations

import os
import re
import sys
import tempfile

from hvd_imagenet.errors import SettingsError

# What TensorFlow's libraries say of themselves before any setting of theirs can reach them.
NOISE = re.compile(rb"(WARNING: All log messages before absl|I0000 |To enable the following instructions:)")


def import_quietly() -> None:
    """Import both; what else they write to standard error while they load, such as a crash, stays.

    Raises:
        SettingsError: Keras uses another backend than TensorFlow.
        ImportError: one of them is not installed.
    """
    _require_tensorflow(os.environ.setdefault("KERAS_BACKEND", "tensorflow"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if sys.modules.get("tensorflow"):
        import keras
    else:
        sys.stderr.flush()
        real = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                import tensorflow as tf

                tf.config.list_physical_devices()  # the last that it says comes with its first use
                import keras
            finally:
                os.dup2(real, 2)
                os.close(real)
                said.seek(0)
                os.write(2, b"".join(line for line in said if not NOISE.match(line)))
    _require_tensorflow(keras.backend.backend())


def _require_tensorflow(name: str) -> None:
    if name != "tensorflow":
        raise SettingsError(
            f"KERAS_BACKEND: {name}; Horovod has operations for Keras on tensorflow only: set it to tensorflow, before "
            "keras is imported"
        )
