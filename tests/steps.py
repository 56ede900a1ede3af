"""Single steps of a backend on made-up images."""

import numpy as np

from hvd_imagenet import backend as backends
from hvd_imagenet.backend import Batch
from hvd_imagenet.config import Config, DataSettings, ModelSettings
from hvd_imagenet.policy import BatchSettings, StepPlan


def config(framework, precision="float64"):
    return Config(
        framework=framework,
        model=ModelSettings("resnet8", 4),
        data=DataSettings(image_size=8),
        batch=BatchSettings(global_size=24, micro_size=8),
        precision=precision,
    )


def micro_batches(count, seed=0, size=8):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        images = rng.standard_normal((size, 8, 8, 3)).astype(np.float32)
        yield Batch(images, rng.integers(0, 4, size))


def plan(micro, rate=0.1, size=8):
    return StepPlan(0, 0, 0.0, micro * size, micro, rate, 1.0)


def made(framework, precision="float64"):
    return backends.load(framework)(config(framework, precision))
