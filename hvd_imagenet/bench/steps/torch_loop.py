"""A loop written by hand in PyTorch: what a good engineer writes for one worker; others begin with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from hvd_imagenet.bench.steps import RATE, Task, made_up
from hvd_imagenet.bench.work import Work
from hvd_imagenet.memory import keep_memory
from hvd_imagenet.torch.device import choose_device
from hvd_imagenet.torch.model import build
from hvd_imagenet.torch.optim import sgd_param_groups

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}


class Loop(Work):
    """Forward, backward, update: the network's own running statistics, PyTorch's SGD, nothing counted.

    Args:
        task: with the micro-batches of a step, shared out evenly.
        wrapped: what becomes of the network before it is trained.
    """

    def __init__(self, task: Task, wrapped: Callable[[nn.Module], nn.Module] = lambda model: model):
        config = task.settings()
        device = prepared(task.rank)
        images, labels = made_up(config)
        self._dtype = torch.float64 if config.precision == "float64" else torch.float32
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, self._dtype)  # channels-last
        self._labels = torch.from_numpy(labels).to(device)
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
        model = build(config.model, config.data.image_size, config.seed, self._dtype, device).train()
        optimizer = config.optimizer
        groups = sgd_param_groups(model, optimizer.weight_decay)
        self._optimizer = torch.optim.SGD(groups, RATE, optimizer.momentum, nesterov=optimizer.nesterov)
        self._model = wrapped(model)
        self._parts = task.micro_batches // task.workers
        self.amount = task.micro_batches * config.batch.micro_size

    def take(self, steps: int) -> None:
        for _ in range(steps):
            for part in range(self._parts):
                last = part + 1 == self._parts
                with nullcontext() if last else self._alone():
                    with self._autocast:
                        scores = self._model(self._images)
                    (F.cross_entropy(scores.to(self._dtype), self._labels) / self._parts).backward()
            self._optimizer.step()
            self._optimizer.zero_grad()

    def finish(self) -> None:
        if self._labels.is_cuda:
            torch.cuda.synchronize()

    def _alone(self):
        """Where gradients are only added up."""
        return self._model.no_sync() if hasattr(self._model, "no_sync") else nullcontext()


def prepared(local_rank: int) -> torch.device:
    """Threads, memory and device of a process, as the trainer has them."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device_id, _ = choose_device(local_rank)
    if device_id is None:
        keep_memory()
        return torch.device("cpu")
    return torch.device("cuda", device_id)


def work(task: Task) -> Loop:
    return Loop(task)
