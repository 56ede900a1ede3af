"""The sum of gradients over the workers, in buckets, while backward goes on (section 4)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import horovod.torch as hvd
import torch
from torch import nn

from hvd_imagenet.buckets import FP16_SCALE, buckets
from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.torch.optim import sum_over_workers


class GradientSum:
    """Sums gradients over the workers, each bucket from the moment it is full.

    Horovod's own optimizer wrapper is not used: it refuses gradients of channels-last weights. Nor is its fusion, which
    agrees on every tensor by itself, and copies it in and out: a bucket is summed where it is. What it sums together is
    always the same, and so are its bits.

    Args:
        model: its parameters' gradients are summed; every worker must have the same parameters.
        settings: what is summed in one go, and in how many bits.
    """

    def __init__(self, model: nn.Module, settings: AllreduceSettings):
        self._names = {p: name for name, p in model.named_parameters() if p.requires_grad}
        self._parameters = list(self._names)
        self._buckets: list[_Bucket] = []
        self._active = False
        if hvd.size() > 1:
            self._fill(self._parameters[::-1], settings)

    def _fill(self, parameters: list[nn.Parameter], settings: AllreduceSettings) -> None:
        sizes = [p.numel() * p.element_size() for p in parameters]
        kind = _Compressed if settings.compression == "fp16" else _Bucket
        for number, part in enumerate(buckets(sizes, settings.bucket_mib)):
            bucket = kind(f"gradients.{number}", [parameters[i] for i in part])
            self._buckets.append(bucket)
            for i in part:
                parameters[i].register_post_accumulate_grad_hook(partial(self._ready, bucket))

    def start(self) -> None:
        """Sum what the next backward leaves in the gradients: call it before the last micro-batch's."""
        self._active = True

    def finish(self) -> None:
        """Wait until every gradient is the sum over all workers."""
        self._active = False
        for parameter in self._parameters:
            if parameter.grad is None:  # not reached on this worker, but perhaps on another, which waits for us
                parameter.grad = torch.zeros_like(parameter)
        for bucket in self._buckets:
            bucket.start()
        for bucket in self._buckets:
            bucket.finish()

    def _ready(self, bucket: _Bucket, parameter: nn.Parameter) -> None:
        if self._active and not bucket.add(parameter):
            raise SettingsError(
                f"model.name: the gradient of {self._names[parameter]} is made in several parts of one backward, the "
                "first of which is on its way to the other workers already; give torch.utils.checkpoint "
                "use_reentrant=False"
            )


class _Bucket:
    """Gradients that lie one behind the other in one tensor, which is what Horovod sums.

    Args:
        name: the same on all workers.
        parameters: of one type, on one device.
    """

    def __init__(self, name: str, parameters: list[nn.Parameter]):
        self._name, self._parameters = name, parameters
        self._memory = parameters[0].new_empty(sum(p.numel() for p in parameters), requires_grad=False)
        parts = self._memory.split([p.numel() for p in parameters])
        self._places = [_like(parameter, part) for parameter, part in zip(parameters, parts, strict=True)]
        self._ready: set[nn.Parameter] = set()
        self._wait: Callable[[], object] | None = None

    def add(self, parameter: nn.Parameter) -> bool:
        """One more of its gradients is ready; false: that has been said before."""
        if parameter in self._ready:
            return False
        self._ready.add(parameter)
        if len(self._ready) == len(self._parameters):
            self.start()
        return True

    def start(self) -> None:
        """Begin to sum, unless that has begun."""
        if self._wait is None:
            torch._foreach_copy_(self._places, [parameter.grad for parameter in self._parameters])
            for parameter, place in zip(self._parameters, self._places, strict=True):
                parameter.grad = place  # and what it was before makes room for what is still to come
            self._wait = self._sum()

    def finish(self) -> None:
        """Wait for the sums, which are the gradients then."""
        self._wait()
        self._ready.clear()
        self._wait = None

    def _sum(self) -> Callable[[], object]:
        """Begin to sum over the workers; returns what waits until that is there."""
        return sum_over_workers(self._memory, self._name)


class _Compressed(_Bucket):
    """Travels in 16 bits."""

    def __init__(self, name: str, parameters: list[nn.Parameter]):
        super().__init__(name, parameters)
        self._sent = torch.empty_like(self._memory, dtype=torch.float16)

    def _sum(self) -> Callable[[], object]:
        torch.mul(self._memory, FP16_SCALE, out=self._sent)
        wait = sum_over_workers(self._sent, self._name)

        def back() -> None:
            wait()
            self._memory.copy_(self._sent).mul_(1 / FP16_SCALE)

        return back


def _like(parameter: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """A piece of memory as a tensor that is laid out as a parameter, channels-last included."""
    if torch.empty_like(parameter).stride() == parameter.stride():  # without gaps
        return memory.as_strided(parameter.shape, parameter.stride())
    return memory.view(parameter.shape)
