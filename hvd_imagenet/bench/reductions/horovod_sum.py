"""Horovod's all-reduce in PyTorch, over the transport that its launcher gives it, as the trainer sets it up."""

from __future__ import annotations

from typing import Any

import horovod.torch as hvd
import torch

from hvd_imagenet.bench.reductions import elements
from hvd_imagenet.bench.work import Work
from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.joining import horovod_set, meet_workers
from hvd_imagenet.torch.device import choose_device


class Sum(Work):
    """Several tensors are one group."""

    def __init__(self):
        with horovod_set(AllreduceSettings(), torch.cuda.is_available(), stall_seconds=None, step_seconds=None):
            meet_workers(hvd)
        self.rank, self.size = hvd.rank(), hvd.size()
        device_id, _ = choose_device(hvd.local_rank())
        self._device = torch.device("cpu" if device_id is None else f"cuda:{device_id}")
        self._tensors: list[torch.Tensor] = []
        self._name = ""

    @property
    def transport(self) -> str:
        """What carries the sums: nccl, mpi or gloo."""
        if self._device.type == "cuda" and hvd.nccl_built():
            return "nccl"
        return "mpi" if hvd.mpi_enabled() else "gloo"

    def prepare(self, asked: dict[str, int]) -> None:
        self._tensors = [torch.zeros(count, device=self._device) for count in elements(asked)]
        self._name = f"{asked['bytes']}.{asked['tensors']}"

    def take(self, steps: int) -> None:
        for _ in range(steps):
            if len(self._tensors) == 1:
                hvd.allreduce_(self._tensors[0], name=self._name, op=hvd.Sum)
            else:
                hvd.grouped_allreduce_(self._tensors, name=self._name, op=hvd.Sum)

    def finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def gather(self, value: Any) -> list[Any]:
        return hvd.allgather_object(value, name="gather")


def work() -> Sum:
    return Sum()
