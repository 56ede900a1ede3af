"""How often Horovod looks which gradients are ready to be summed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from hvd_imagenet.config import AllreduceSettings, Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.models.layers import training_flops

VARIABLE = "HOROVOD_CYCLE_TIME"  # milliseconds
GPU_CYCLE = 1.0  # milliseconds: Horovod's own
CPU_CYCLES = 5.0, 50.0  # milliseconds: the shortest and the longest
LOOK = 0.1e-3  # seconds that a look takes from the training: 0.13 ms over Gloo, 0.04 over MPI
CORE_FLOPS = 1e11  # per second and core, in training: 90 G of ResNet-56 on small images, 280 G of ResNet-50 in bf16
# How the names of variables begin that tell a process of a launcher; and those that say how many workers are on this
# host: before these have met, nothing else does.
OF_LAUNCHERS = "HOROVOD_RANK", "OMPI_COMM_WORLD_", "PMI", "PALS_", "MPI_LOCAL", "SLURM_STEP_ID"
LOCAL_SIZES = "HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"


def cycle_ms(allreduce: AllreduceSettings, on_gpu: bool, seconds: float | None) -> float:
    """Milliseconds from one look of Horovod to the next: our settings', the environment's, or by default 1 on GPUs,
    and on CPUs as long as suits the steps.

    Args:
        seconds: of a step; None: not known.

    Raises:
        SettingsError: the environment has something else.
    """
    if allreduce.cycle_ms is not None:
        return allreduce.cycle_ms
    given = cycle_ms_in(os.environ)
    if given is not None:
        return given
    return GPU_CYCLE if on_gpu else cpu_cycle(seconds)


def cycle_ms_in(environment: Mapping[str, str]) -> float | None:
    """What the environment has the cycle to be, in milliseconds; None: nothing.

    Raises:
        SettingsError: that is no number of milliseconds.
    """
    given = environment.get(VARIABLE)
    if given is None:
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SettingsError(f"{VARIABLE}: {given or 'empty'}; give a number of milliseconds from 0 on")
    return value


def cpu_cycle(seconds: float | None) -> float:
    """Milliseconds of a cycle on CPUs, where Horovod shares its cores with the training.

    Each look takes time from a step, and the last gradients wait for one, half a cycle on the mean: with cycles of c, a
    step of T loses T / c looks and c / 2, which is least at c = sqrt(2 T look). At twice and half of that it is a
    quarter more.

    Args:
        seconds: of a step, which may be infinite; None: not known, which gives the shortest.
    """
    least, most = CPU_CYCLES
    return min(max(1000 * math.sqrt(2 * (seconds or 0) * LOOK), least), most)


def micro_batch_seconds(config: Config, cores: int) -> float | None:
    """About how long forward and backward of a micro-batch take on so many cores, which is a step at least; None: a
    network of the user's own, whose operations are not known before it is built."""
    if config.model.own:
        return None
    return config.batch.micro_size * training_flops(config.layers()) / (cores * CORE_FLOPS)


def step_seconds(config: Config) -> float | None:
    """About how long a step of this process takes at least, on as many cores as it will have, as far as that can be
    told before the workers have met; see `micro_batch_seconds`. Without a launcher there are no others, and a step
    waits for no look, however long it takes."""
    if not any(name.startswith(OF_LAUNCHERS) for name in os.environ):
        return math.inf
    workers = next((int(os.environ[name]) for name in LOCAL_SIZES if os.environ.get(name, "").isdecimal()), 1)
    return micro_batch_seconds(config, max(1, len(os.sched_getaffinity(0)) // max(1, workers)))
