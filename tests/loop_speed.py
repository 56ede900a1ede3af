"""Steps per second of a backend against a loop written by hand for the same network, in interleaved blocks.

    python tests/loop_speed.py torch
    python tests/loop_speed.py keras

One worker, images that are there already, float32. The loop by hand is what a tutorial has: the network's own running
statistics, the framework's own SGD, no counts of right answers, and no Horovod. Prints the median of the blocks' ratios
and its 95 % interval (by order statistics): above 1, the backend is the faster one.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from hvd_imagenet import backend as backends
from hvd_imagenet.backend import Batch
from hvd_imagenet.config import Config, DataSettings, ModelSettings
from hvd_imagenet.policy import BatchSettings, StepPlan

# Name, image size, classes, samples of a step, steps of a block, pairs of blocks.
CASES = [("resnet8", 28, 10, 128, 10, 60), ("resnet50", 224, 1000, 16, 1, 24)]
RATE = 1e-3


def main(framework: str) -> None:
    for case in CASES:
        measure(framework, *case)


def measure(framework: str, name: str, size: int, classes: int, batch: int, steps: int, pairs: int) -> None:
    config = Config(
        framework=framework,
        model=ModelSettings(name, classes),
        data=DataSettings(image_size=size),
        batch=BatchSettings(batch, batch),
    )
    rng = np.random.default_rng(0)
    given = Batch(rng.standard_normal((batch, size, size, 3), np.float32), rng.integers(0, classes, batch))
    loops = [
        of_the_backend(config, given),
        {"torch": by_hand_in_torch, "keras": by_hand_in_keras}[framework](config, given),
    ]
    for take in loops:
        take(max(2, steps))
    dice, seconds = random.Random(0), ([], [])
    for _ in range(pairs):
        for which in dice.sample([0, 1], 2):
            start = time.perf_counter()
            loops[which](steps)
            seconds[which].append(time.perf_counter() - start)
    ratios = sorted(hand / ours for ours, hand in zip(*seconds, strict=True))
    reach = math.floor(pairs / 2 - 0.98 * math.sqrt(pairs)) - 1
    ours, hand = (batch * steps / median(each) for each in seconds)
    print(
        f"{framework}, {name}, steps of {batch}: {ours:.1f} images/s, by hand {hand:.1f}; ratio {median(ratios):.3f} "
        f"[{ratios[reach]:.3f}, {ratios[-1 - reach]:.3f}], {pairs} pairs of blocks of {steps}",
        flush=True,
    )


def of_the_backend(config: Config, given: Batch) -> Callable[[int], None]:
    backend = backends.load(config.framework)(config)
    plan = StepPlan(0, 0, 0.0, len(given.labels), 1, RATE, 1.0)

    def take(steps: int) -> None:
        for _ in range(steps):
            backend.train_step(plan, [given])
            backend.take_totals(wait=False)
        backend.take_totals(wait=True)

    return take


def by_hand_in_torch(config: Config, given: Batch) -> Callable[[int], None]:
    import torch

    from hvd_imagenet.torch.model import build_model

    model = build_model(config.model.name, config.model.classes).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images, labels = torch.from_numpy(given.images).permute(0, 3, 1, 2), torch.from_numpy(given.labels)

    def take(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        loss.item()

    return take


def by_hand_in_keras(config: Config, given: Batch) -> Callable[[int], None]:
    import keras
    import tensorflow as tf

    from hvd_imagenet.keras.model import build_model

    model = build_model(config.model.name, config.model.classes)
    optimizer = keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(given.images), tf.constant(given.labels)

    @tf.function(jit_compile=False)
    def step(images, labels):
        with tf.GradientTape() as tape:
            scores = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores))
        optimizer.apply(tape.gradient(loss, [variable.value for variable in model.trainable_variables]))
        return loss

    def take(steps: int) -> None:
        for _ in range(steps):
            loss = step(images, labels)
        float(loss)

    return take


if __name__ == "__main__":
    main(*sys.argv[1:])
