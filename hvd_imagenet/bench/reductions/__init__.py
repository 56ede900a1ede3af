"""Who is compared in summing over workers: modules with one function, ``work(**arguments)``, that makes a `Work`.

Those that do the same are asked for {"bytes": of all tensors together, "tensors": how many these are cut into}; a step
is one sum of float32.
"""

from __future__ import annotations

import importlib
from typing import Any

from hvd_imagenet.bench.work import Work

ELEMENT = 4  # bytes of a float32


def elements(asked: dict[str, int]) -> list[int]:
    """The sizes of the tensors that are asked for."""
    return [asked["bytes"] // ELEMENT // asked["tensors"]] * asked["tensors"]


def work(module: str, arguments: dict[str, Any]) -> Work:
    """What a contestant does, by the name of its module."""
    return importlib.import_module(f"{__name__}.{module}").work(**arguments)
