"""What each of several runs side by side gets of this machine: its cores, and a GPU where there are any."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hvd_imagenet import gpu
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.host import Place, own_cores


@dataclass(frozen=True)
class Share:
    """What a run may use.

    Attributes:
        cores: numbers of them; none: all that this process has.
        gpu: as CUDA_VISIBLE_DEVICES names it; None: what this process sees.
    """

    cores: frozenset[int] = frozenset()
    gpu: str | None = None


def shares(runs: int) -> list[Share]:
    """The shares of so many runs at a time, of one worker each.

    Raises:
        SettingsError: there are too few cores or GPUs.
    """
    if runs == 1:
        return [Share()]
    cores = frozenset(os.sched_getaffinity(0))
    gpus = _gpus()
    for name, count in (("cores", len(cores)), ("GPUs", len(gpus))):
        if runs > count and (name == "cores" or gpus):
            hide = ", or hide the GPUs: CUDA_VISIBLE_DEVICES=" if name == "GPUs" else ""
            raise SettingsError(f"--parallel: {runs}; there are {count} {name} for as many runs; give {count}{hide}")
    places = [Place("", cores, None)] * runs
    return [Share(own_cores(places, number), gpus[number] if gpus else None) for number in range(runs)]


def _gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(gpu.visible())])[: gpu.visible()]
