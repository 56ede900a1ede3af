"""Who is compared: this package's loader, its alternatives, and the limits of the machine.

Each is a module with one function, ``batches(task)``: an endless iterator of batches of decoded images. All loaders do
the same: random-resized crop to 224 x 224, random flip, normalised float32, height x width x colour.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

from hvd_imagenet.bench.work import Work

IMAGE_SIZE = 224
AREA = (0.08, 1.0)  # of the image
RATIO = (3 / 4, 4 / 3)  # width / height
ATTEMPTS = 10  # to find such a part of an image; then all of it is taken
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Task:
    """What a contestant is to do.

    Attributes:
        folder: holds train/CLASS/*.jpg.
        shards: the same photos as WebDataset tars, at least one for each thread.
        threads: for decoding; processes, where a contestant has no threads.
        batch: images per batch.
        antialiased: whether resizing averages over all source pixels, as PIL does, or over the nearest four.
    """

    folder: str
    shards: list[str]
    threads: int
    batch: int
    antialiased: bool


class Batches(Work):
    """Batches as they come, of images, one to a step.

    Args:
        batches: endless, and all of one size.
    """

    warm_up = 8
    steady = False  # some are there already, others are waited for

    def __init__(self, batches: Iterator[Sized], size: int):
        self._batches = batches
        self.amount = size

    def take(self, steps: int) -> None:
        for _ in range(steps):
            next(self._batches)


def work(module: str, arguments: dict[str, Any]) -> Batches:
    """What a contestant does, by the name of its module."""
    task = Task(**arguments)
    return Batches(importlib.import_module(f"{__name__}.{module}").batches(task), task.batch)
