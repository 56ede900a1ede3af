"""A trained network as a file that others read: a Keras model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf

from hvd_imagenet.backend import require_same_shapes
from hvd_imagenet.config import Config
from hvd_imagenet.keras.model import build
from hvd_imagenet.keras.names import named_buffers, named_parameters


def trained(config: Config, weights: dict[str, np.ndarray]) -> keras.Model:
    """The network as evaluation uses it; on the CPU, in float32.

    Args:
        weights: parameters and running statistics by their neutral names.

    Raises:
        ValueError: names or shapes that differ from the network's.
        SettingsError: the user's own network cannot be made.
    """
    with suppress(RuntimeError):  # TensorFlow has begun already
        tf.config.set_visible_devices([], "GPU")  # it would take all the memory, which the run may need
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    model = build(config.model, config.data.image_size)
    kept = named_parameters(model) | named_buffers(model)
    require_same_shapes("model", {name: variable.shape for name, variable in kept.items()}, weights)
    for name, variable in kept.items():
        variable.assign(weights[name])
    return model


def keras_file(model: keras.Model) -> bytes:
    """A ``.keras`` file, which ``keras.saving.load_model`` reads: images (n, height, width, 3) to scores."""
    with TemporaryDirectory() as folder:  # Keras writes to a name that ends so, and to nothing else
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()
