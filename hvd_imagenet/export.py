"""A run's newest checkpoint as a file that others read: torchvision's weights, a Keras model, or ONNX."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hvd_imagenet import backend, checkpoint, settings
from hvd_imagenet.config import Config
from hvd_imagenet.data.remote.caching import Caching, Patience
from hvd_imagenet.data.store import open_store
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import CheckpointError, DataError, RunError, SettingsError
from hvd_imagenet.run_directory import RunDirectory


class Format(NamedTuple):
    """What a file of this kind is made with, how its name ends, and the shape of the images that its network takes."""

    framework: str
    suffix: str
    images: str


FORMATS = {
    "torchvision": Format("torch", ".pth", "(n, 3, {0}, {0})"),
    "keras": Format("keras", ".keras", "(n, {0}, {0}, 3)"),
    "onnx": Format("torch", ".onnx", "(n, 3, {0}, {0})"),
}


def export(run: RunDirectory, name: str, path: Path | None = None) -> None:
    """Write a run's newest usable checkpoint in one of ``FORMATS``, whatever framework the run was trained in.

    The run stays as it is. Its data set is not needed, and Horovod is not started.

    Args:
        path: where to; None: ``MODEL-step-N`` in the run's folder.

    Raises:
        SettingsError: an unknown format, one that needs what is not installed or cannot hold the user's own network, or
            a file that cannot be written.
        CheckpointError: no usable checkpoint.
    """
    if name not in FORMATS:
        raise SettingsError(f"--format: {name}; give one of {', '.join(FORMATS)}")
    form = FORMATS[name]
    config = settings.load(run.config)
    checkpoint.require_any(run.checkpoints)
    state, progress, saved = checkpoint.load(run.checkpoints, _skip)
    path = path or run.path / f"{config.model.short_name}-step-{progress.step}{form.suffix}"
    try:
        _require_free(path, form.suffix)
        part = backend.import_part(form.framework, "export")
        network = _trained(part, config, state.model)
        write_whole(path, _written(part, network, name, config, progress.step, saved))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error}); give another place with -o") from None
    print(f"{path}: {config.model.name} after step {progress.step} of {run.path}, for {name}")
    print(_input_convention(config, form))


def _skip(path: Path, error: CheckpointError) -> None:
    print(f"warning: {error}; trying the checkpoint before", file=sys.stderr, flush=True)


def _trained(part: ModuleType, config: Config, weights: dict[str, np.ndarray]) -> Any:
    """The network in a framework, with these weights."""
    try:
        return part.trained(config, weights)
    except ValueError as error:
        raise SettingsError(f"model: is not the one of the checkpoint ({error})") from None


def _written(part: ModuleType, network: Any, name: str, config: Config, step: int, saved: dict[str, Any]) -> bytes:
    """The file of a format."""
    try:
        if name == "torchvision":
            return part.torchvision_file(network, step)
        if name == "onnx":
            return part.onnx_file(network, config.data.image_size, _facts(config, step, saved))
        return part.keras_file(network)
    except (RunError, OSError):
        raise
    except Exception as error:
        if not config.model.own:
            raise
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise SettingsError(
            f"--format: {name}; {config.model.name} cannot be written so ({reason}); change it, or give another format"
        ) from None


def _require_free(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise SettingsError(f"-o: {path}; give a name that ends in {suffix}")
    if path.exists():
        raise SettingsError(f"{path}: is there already; remove it, or give another name with -o")
    if not path.parent.is_dir():
        raise SettingsError(f"{path}: there is no folder {path.parent}; make it, or give another place with -o")


def _input_convention(config: Config, form: Format) -> str:
    """What becomes of an image before the network sees it, in words."""
    data = config.data
    return (
        f"images: {form.images.format(data.image_size)} float32, RGB; shorter side to {data.resize_shorter()} pixels, "
        f"centre crop, (x / 255 - mean) / std with mean {data.mean}, std {data.std}"
    )


def _facts(config: Config, step: int, saved: dict[str, Any]) -> dict[str, str]:
    """What a file with room for it says of its network: where it is from, and what it takes and answers."""
    data = config.data
    facts = {
        "model": config.model.name,
        "step": step,
        "image_size": data.image_size,
        "resize_shorter": data.resize_shorter(),
        "mean": data.mean,
        "std": data.std,
        "class_names": _class_names(config, saved["data"]["contents"]),
    }
    return {key: fact if isinstance(fact, str) else json.dumps(fact) for key, fact in facts.items() if fact != []}


def _class_names(config: Config, contents: str) -> list[str]:
    """In the order of the scores; none if the data set of the run, known by its checksum, is there no more."""
    data = config.data
    try:
        caching = Caching.of(data.cache_dir, data.cache_gib, Patience(give_up=0))  # not worth waiting for
        train_set = open_store(data.path, "train", caching)
    except (DataError, SettingsError, OSError):
        return []
    return train_set.classes if train_set.contents() == contents else []
