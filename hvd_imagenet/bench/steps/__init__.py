"""Who is compared in training: this package's step, loops written by hand, and the limits of the machine.

Each is a module with one function, ``work(task)``, which makes a `Work`: its steps are those of a training, unless it
is a limit.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvd_imagenet import settings
from hvd_imagenet.backend import Batch
from hvd_imagenet.bench.work import Work
from hvd_imagenet.config import Config

RATE = 1e-3  # of learning: small enough for noise to be learned from for ever
MATRIX = {"cpu": 2048, "cuda": 8192}  # height and width: large enough to reach a device's rate


@dataclass(frozen=True)
class Task:
    """What a contestant is to do.

    Attributes:
        config: file with the settings of the run.
        micro_batches: of a step, over all workers.
        fed: whether the images are those of the data set, read and decoded meanwhile; else they are made up, once.
        timed: whether it tells what the seconds of a step go to.
        rank, workers: of the job, where no launcher says so.
        meeting: where its workers find each other, if they need that: what the name of a file begins with, which ends
            with their common parent, since a start must not find the file of the one before.
    """

    config: str
    micro_batches: int = 1
    fed: bool = False
    timed: bool = False
    rank: int = 0
    workers: int = 1
    meeting: str = ""

    def settings(self) -> Config:
        return settings.load(Path(self.config))


def made_up(config: Config) -> Batch:
    """A micro-batch of noise, with a class for each image; numpy."""
    size, rng = config.data.image_size, np.random.default_rng(0)
    images = rng.standard_normal((config.batch.micro_size, size, size, 3), np.float32)
    return Batch(images, rng.integers(0, config.model.classes, config.batch.micro_size))


def work(module: str, arguments: dict[str, Any]) -> Work:
    """What a contestant does, by the name of its module."""
    return importlib.import_module(f"{__name__}.{module}").work(Task(**arguments))
