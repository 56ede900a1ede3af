"""A limit: products of large square matrices in PyTorch, and nothing else; the amount is GFLOP."""

from __future__ import annotations

import torch

from hvd_imagenet.bench.steps import MATRIX, Task
from hvd_imagenet.bench.steps.torch_loop import DTYPES, prepared
from hvd_imagenet.bench.work import Work


class Products(Work):
    """Args: dtype: of the matrices; device: that they are on."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        size = MATRIX[device.type]
        self._factors = torch.randn(2, size, size, device=device).to(dtype)
        self._product = torch.empty_like(self._factors[0])
        self.amount = 2e-9 * size**3

    def take(self, steps: int) -> None:
        for _ in range(steps):
            torch.mm(*self._factors, out=self._product)

    def finish(self) -> None:
        if self._product.is_cuda:
            torch.cuda.synchronize()


def work(task: Task) -> Products:
    return Products(DTYPES[task.settings().precision], prepared(0))
