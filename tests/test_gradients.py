"""Sums of gradients in the trainer's own environment."""

import time

import horovod.torch as hvd
import pytest
import torch
from torch import nn

from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.joining import set_horovod
from hvd_imagenet.torch.gradients import GradientSum


@pytest.mark.parametrize("workers", [3])
def test_sums_are_always_of_the_same_bits(workers):
    """However late which gradient is on which worker: of three numbers, it matters which two are added first."""
    set_horovod(AllreduceSettings(), on_gpu=False, stall_seconds=None)
    hvd.init()
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 50, 700, 8, 1000, 20)]
    model = nn.ParameterList(parameters)
    values = [torch.randn(p.shape, generator=torch.Generator().manual_seed(hvd.rank())) for p in parameters]
    gradients, found = GradientSum(model, 1e-3), []
    for late in range(4):
        gradients.start()
        for number in (5, 4, 3, 2, 1, 0):
            time.sleep(0.01 * ((number + hvd.rank() * late) % 3))
            (parameters[number] * values[number]).sum().backward()
        gradients.finish()
        found.append([p.grad.clone() for p in parameters])
        model.zero_grad()
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))
