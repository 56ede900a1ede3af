"""torch.distributed's all-reduce, over Gloo, or NCCL on GPUs; several tensors are coalesced."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import distributed

from hvd_imagenet.bench.reductions import elements
from hvd_imagenet.bench.work import Work
from hvd_imagenet.torch.device import choose_device


class Sum(Work):
    """Args: meeting: file by which the workers find each other; rank, workers: of the job."""

    def __init__(self, meeting: str, rank: int, workers: int):
        device_id, _ = choose_device(rank)
        self._device = torch.device("cpu" if device_id is None else f"cuda:{device_id}")
        kind = "gloo" if device_id is None else "nccl"
        distributed.init_process_group(kind, init_method=f"file://{meeting}", rank=rank, world_size=workers)
        self.rank, self.size = rank, workers
        self._tensors: list[torch.Tensor] = []
        warnings.filterwarnings("ignore", ".*all_reduce_coalesced", FutureWarning)  # there is no other for Gloo

    def prepare(self, asked: dict[str, int]) -> None:
        self._tensors = [torch.zeros(count, device=self._device) for count in elements(asked)]

    def take(self, steps: int) -> None:
        for _ in range(steps):
            if len(self._tensors) == 1:
                distributed.all_reduce(self._tensors[0])
            else:
                distributed.all_reduce_coalesced(self._tensors)

    def finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def gather(self, value: Any) -> list[Any]:
        found = [None] * self.size
        distributed.all_gather_object(found, value)
        return found


def work(**arguments: Any) -> Sum:
    return Sum(**arguments)
