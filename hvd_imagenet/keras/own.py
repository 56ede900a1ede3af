"""A network of the user's own in Keras: made, tried on two images, and refused if it cannot be trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator

from hvd_imagenet.config import ModelSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.keras.initial import zero_last_gamma
from hvd_imagenet.keras.names import layers_of
from hvd_imagenet.models import own


def build_own(settings: ModelSettings, image_size: int, seed: int) -> keras.Model:
    """What the user's function makes, with the framework's own initial values, repeatably.

    Raises:
        SettingsError: there is no such function, or what it makes is not a network that can be trained here.
    """
    function = own.find(settings.name)
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)  # layers' automatic names depend on what was made before
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(own.initial_seed(seed))
    model = own.call(settings.name, function, _filled_in(settings, function, image_size))
    own.require_kind(settings.name, model, keras.Model, "keras")
    _try_out(settings, model, image_size)
    _require_trainable(settings.name, model)
    if settings.zero_last_gamma:
        with suppress(ValueError):  # a network that nobody can see into starts as it is
            zero_last_gamma(model)
    return model


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """What a network draws from in training; last, what is drawn from without a generator of one's own."""
    return [*(g for _, layer in layers_of(model, keras.Layer) for g in layer._seed_generators), global_seed_generator()]


def _filled_in(settings: ModelSettings, function: Callable[..., Any], image_size: int) -> dict[str, Any]:
    """The kwargs; of keras.applications, with what follows from other settings unless it is given."""
    if not settings.name.startswith("keras.applications"):
        return settings.kwargs
    defaults = {
        "weights": None,
        "classes": settings.classes,
        "classifier_activation": None,
        "input_shape": (image_size, image_size, 3),
        "include_preprocessing": False,  # data.mean and data.std have done that
    }
    takes = inspect.signature(function).parameters
    return {**{key: value for key, value in defaults.items() if key in takes}, **settings.kwargs}


def _require_trainable(name: str, model: keras.Model) -> None:
    if not model.trainable_variables:
        raise SettingsError(f"model.name: {name}; has no parameter to train: return a network with some")
    for variable in model.trainable_variables:
        if variable.dtype != keras.config.floatx():
            raise SettingsError(
                f"model.name: {name}; its {variable.path} is {variable.dtype}: parameters are {keras.config.floatx()} "
                "in every precision; leave its layer's dtype out"
            )


def _try_out(settings: ModelSettings, model: keras.Model, image_size: int) -> None:
    """Two random images through the network, as in evaluation and as in training, which leave no trace in it."""
    size = (image_size, image_size, 3)
    images = tf.constant(np.random.default_rng(0).standard_normal((2, *size)), keras.config.floatx())
    for training in (False, True):
        try:
            if not model.built:
                model(keras.KerasTensor((None, *size), images.dtype.name))
            with keras.StatelessScope():
                scores = model(images, training=training)
        except Exception as error:
            raise own.cannot_run(settings.name, (2, *size), error) from None
        shape = scores.shape if tf.is_tensor(scores) and scores.dtype.is_floating else None
        own.require_scores(settings.name, settings.classes, scores, shape)
        own.require_logits(settings.name, tf.cast(scores, tf.float64).numpy().tolist())
