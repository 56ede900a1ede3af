"""The loop by hand on several workers, by torch.distributed: DistributedDataParallel over Gloo, or NCCL on GPUs."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from hvd_imagenet.bench.steps import Task
from hvd_imagenet.bench.steps.torch_loop import Loop


class Distributed(Loop):
    """DistributedDataParallel as it comes, but for gradients that live in its buckets, which saves a copy."""

    def __init__(self, task: Task):
        kind = "nccl" if torch.cuda.is_available() else "gloo"
        place = {"init_method": f"file://{task.meeting}.{os.getppid()}", "rank": task.rank, "world_size": task.workers}
        distributed.init_process_group(kind, **place)
        super().__init__(task, lambda model: DistributedDataParallel(model, gradient_as_bucket_view=True))
        self.rank, self.size = task.rank, task.workers

    def gather(self, value: Any) -> list[Any]:
        found = [None] * self.size
        distributed.all_gather_object(found, value)
        return found


def work(task: Task) -> Distributed:
    return Distributed(task)
