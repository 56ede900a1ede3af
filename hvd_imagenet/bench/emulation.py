"""Workers that sleep in place of computing: what they exchange, when, and the memory that they take."""

from __future__ import annotations

import itertools
from typing import Any

import psutil

from hvd_imagenet.buckets import buckets
from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.models import layers
from hvd_imagenet.models.layers import Layer
from hvd_imagenet.planner.step import FORWARD

WORD = 4  # bytes of a number
OWN_BYTES = 150 * 2**20  # of a process that has loaded PyTorch and Horovod, beside what all of them share


def emulated(config: Config, milliseconds: float) -> dict[str, Any]:
    """The arguments of ``reductions.emulated_step`` for a network: the sizes of its statistics and buckets of
    gradients, and when each of these is ready, the last layers' first.

    Raises:
        SettingsError: a framework or network for which that is not known.
    """
    if config.framework != "torch":
        raise SettingsError(
            f"framework: {config.framework}; --emulate-step exchanges by PyTorch's part of Horovod: give torch"
        )
    if config.model.own:
        raise SettingsError(f"model.name: {config.model.name}; --emulate-step knows the sizes of the table's networks")
    costs = config.layers()
    ready = [(part, count) for part, layer in layers.ready(costs) for count in tensors(layer, config.model.classes)]
    together = buckets([WORD * count for _, count in ready], config.allreduce.bucket_mib)
    gradients = [(FORWARD + (1 - FORWARD) * ready[part[-1]][0], sum(ready[i][1] for i in part)) for part in together]
    # As many running means and variances as there are gammas and betas.
    statistics = sum(layer.norm_channels for layer in costs)
    seconds = milliseconds / 1000
    exchanged = {"statistics": statistics, "buckets": gradients, "allreduce": vars(config.allreduce)}
    return {"seconds": seconds, "forward": FORWARD, **exchanged}


def tensors(layer: Layer, classes: int) -> list[int]:
    """Sizes of a layer's parameters, in the order of the backward."""
    if layer.norm_channels == 0:
        return [classes, layer.parameters - classes]
    half = layer.norm_channels // 2
    return [half, half, layer.parameters - layer.norm_channels]


def require_memory(arguments: dict[str, Any], processes: int) -> None:
    """Raise SettingsError unless so many processes fit into the memory that is free."""
    numbers = sum(count for _, count in arguments["buckets"])
    needed, free = processes * (OWN_BYTES + WORD * numbers), psutil.virtual_memory().available
    if needed > free:
        raise SettingsError(
            f"--workers: all of them together, over all transports, are {processes} processes and take "
            f"{needed / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free; give fewer, one --transport, or a "
            "smaller model.name"
        )


def powers_of_two(most: int, first: int = 1) -> list[int]:
    """From the first up to the most."""
    doubled = (first * 2**number for number in itertools.count())
    return list(itertools.takewhile(lambda one: one <= most, doubled))
