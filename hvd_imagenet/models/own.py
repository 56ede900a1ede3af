"""A network of the user's own: the function that makes it, found and called, and what its scores must be.

Whatever is wrong ends the run before any training, named in one line.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.stream import philox

ROUNDING = 1e-2  # of the sum of a row of probabilities in bfloat16
MESSAGE = 400  # letters of an error's message
KERAS_ADDS = re.compile(r"\x1b\[[0-9;]*m|\s+Arguments received by .*", re.DOTALL)  # bold face, and what is known
# How the names of files begin that are not the user's.
LIBRARIES = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), f"{Path(__file__).parents[1]}{os.sep}", "<")


def find(name: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names; the folder that the job was started in is looked in, too.

    Raises:
        SettingsError: there is no such module or function, or importing it fails.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` would; what the function imports later is found, too
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise SettingsError(
                f"model.name: {name}; there is no module {error.name}{_nearest(error.name, _modules())}; start in the "
                f"folder that holds it (this is {os.getcwd()}), or put that folder on PYTHONPATH"
            ) from None
        raise SettingsError(
            f"model.name: {name}; {module_name} cannot be imported: {_told(error)}; correct it there"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        where = getattr(module, "__file__", module_name)
        wrong = f"in {where} is no function" if hasattr(module, function_name) else f"is not in {where}"
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise SettingsError(
            f"model.name: {name}; {function_name} {wrong}{_nearest(function_name, functions)}; name a function that "
            "returns a network"
        )
    return function


def call(name: str, function: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
    """What the function returns.

    Raises:
        SettingsError: it does not take these arguments, or fails.
    """
    try:
        inspect.signature(function).bind(**kwargs)
    except TypeError as error:
        takes = list(inspect.signature(function).parameters)
        unknown = next((key for key in kwargs if key not in takes), "")
        raise SettingsError(
            f"model.kwargs: {kwargs}; {name} cannot be called with them: {error}{_nearest(unknown, takes)}; "
            f"it takes {', '.join(takes) or 'none'}"
        ) from None
    except ValueError:  # a function of another language does not tell
        pass
    try:
        return function(**kwargs)
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"model.name: {name}; fails with model.kwargs {kwargs}: {_told(error)}; correct it, or give other kwargs"
        ) from None


def initial_seed(seed: int) -> int:
    """What a framework's generator is seeded with before it draws a network's initial values."""
    return philox.seeds(seed, "initial", 1)[0]


def noise_seeds(seed: int, samples_seen: int, micro_batch: int, count: int) -> list[int]:
    """What a framework's generators are seeded with before a micro-batch's forward in training, as for dropout.

    A function of the micro-batch's place in the sample stream: neither the number of workers nor a restart matters.
    """
    return philox.seeds(seed, f"noise/{samples_seen}/{micro_batch}", count)


def require_kind(name: str, network: Any, kind: type, framework: str) -> None:
    """Raise SettingsError unless a network is of the framework's kind."""
    if not isinstance(network, kind):
        wanted = f"{framework}.{'nn.Module' if framework == 'torch' else 'Model'}"
        raise SettingsError(
            f"model.name: {name}; returns {_kind(network)}, not a {wanted}; let it return one, or is it for another "
            f"framework than {framework}?"
        )


def cannot_run(name: str, shape: tuple[int, ...], error: Exception) -> SettingsError:
    """What to raise where a network fails on images."""
    return SettingsError(
        f"model.name: {name}; fails on float images {shape}: {_told(error)}; correct it, or data.image_size"
    )


def require_scores(name: str, classes: int, scores: Any, shape: Sequence[int] | None) -> None:
    """Raise SettingsError unless a network's answer to 2 images is a tensor (2, classes).

    Args:
        scores: the answer; shape: None: it is no tensor.
    """
    if shape is None or tuple(shape) != (2, classes):
        answer = _kind(scores) if shape is None else f"a tensor {tuple(shape)}"
        raise SettingsError(
            f"model.name: {name}; gives {answer} for 2 images, and model.classes is {classes}: it must give a tensor "
            f"(2, {classes}), one score per class; change it, or model.classes"
        )


def require_logits(name: str, rows: list[list[float]]) -> None:
    """Raise SettingsError if the scores for random images are probabilities: the loss takes the softmax itself."""
    if all(min(row) >= 0 and abs(sum(row) - 1) < ROUNDING for row in rows):
        raise SettingsError(
            f"model.name: {name}; gives probabilities, but scores before the softmax are needed: leave the softmax out "
            "(in Keras, activation=None or classifier_activation=None)"
        )


def _modules() -> list[str]:
    """What can be imported from the folder that the job was started in."""
    return [module.name for module in pkgutil.iter_modules([os.getcwd()])]


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _told(error: BaseException) -> str:
    """An error in the user's code, on one line, and where in that code it came up."""
    message = textwrap.shorten(KERAS_ADDS.sub("", str(error)), MESSAGE, placeholder=" ...")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(LIBRARIES)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"
