"""The run whose steps are measured: its settings as the contestants get them, its data, and its operations."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hvd_imagenet import settings
from hvd_imagenet.backend import PACKAGES, remedy
from hvd_imagenet.config import Config, EvaluateSettings, FaultSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.models.layers import training_flops
from hvd_imagenet.policy import BatchSettings

DISTRIBUTIONS = ["hvd-imagenet", "horovod", "numpy", "torch", "tensorflow", "tensorflow-cpu", "keras"]
DISTRIBUTIONS += ["nvidia-dali-cuda120", "nvidia-dali-cuda130"]


def require_measurable(config: Config) -> None:
    """Raise SettingsError unless the framework is installed, and each process would do the same."""
    if find_spec(PACKAGES[config.framework]) is None:
        raise SettingsError(f"framework: {config.framework}; is not installed; {remedy(config.framework)}")
    if config.batch.forward_size == "auto":
        raise SettingsError("batch.forward_size: auto; give the number that is to be measured")


def of_steps(config: Config, micro_batches: int) -> Config:
    """The settings for steps of so many micro-batches, which may be stopped for any time."""
    size = config.batch.micro_size
    return dataclasses.replace(
        config,
        batch=BatchSettings(micro_batches * size, size, config.batch.forward_size),
        evaluate=EvaluateSettings(),
        faults=FaultSettings(stall_seconds=None),
    )


def one_by_one(config: Config) -> Config:
    """The settings with forwards of one micro-batch."""
    return dataclasses.replace(config, batch=dataclasses.replace(config.batch, forward_size=None))


def opened(config: Config, workers: int) -> Config:
    """The settings, held against their data.

    Raises:
        SettingsError, DataError: it is not there, or does not fit.
    """
    from hvd_imagenet.data.store import open_store
    from hvd_imagenet.inputs import caching
    from hvd_imagenet.startup import check_fit, resolved

    train_set = open_store(config.data.path, "train", caching(config))
    try:
        check_fit(config, config.policy(len(train_set)), train_set, workers)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return resolved(config, train_set)


def saved(config: Config, file: Path) -> str:
    """The name of a file with these settings, for a contestant."""
    file.write_text(settings.dump(config))
    return str(file)


def described(config: Config) -> dict[str, Any]:
    """Which run it is, in a report."""
    return {
        "framework": config.framework,
        "model": config.model.name,
        "classes": config.model.classes,
        "image_size": config.data.image_size,
        "precision": config.precision,
        "micro_size": config.batch.micro_size,
        "data": config.data.path,
    }


def title(told: dict[str, Any]) -> str:
    """The same in the words of a table."""
    size = told["image_size"]
    network = f"{told['model']}, {size} x {size}, micro-batches of {told['micro_size']}"
    return f"{network}, {told['precision']}, {told['framework']}"


def flops_per_image(config: Config) -> int | None:
    """Floating-point operations of an image's forward and backward, two to each multiply-add; None: a network that is
    none of the table's."""
    return None if config.model.own else training_flops(config.layers())
