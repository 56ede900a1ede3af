"""Sums of gradients in the trainer's own environment, and in 16 bits."""

import time

import horovod.torch as hvd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.joining import horovod_set
from hvd_imagenet.torch.gradients import GradientSum


@pytest.mark.parametrize("workers", [3])
def test_sums_are_always_of_the_same_bits(workers):
    """However late which gradient is on which worker: of three numbers, it matters which two are added first."""
    with horovod_set(AllreduceSettings(), on_gpu=False, stall_seconds=None, step_seconds=None):
        hvd.init()
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 50, 700, 8, 1000, 20)]
    model = nn.ParameterList(parameters)
    values = [torch.randn(p.shape, generator=torch.Generator().manual_seed(hvd.rank())) for p in parameters]
    gradients, found = GradientSum(model, AllreduceSettings(bucket_mib=1e-3)), []
    for late in range(4):
        gradients.start()
        for number in (5, 4, 3, 2, 1, 0):
            time.sleep(0.01 * ((number + hvd.rank() * late) % 3))
            (parameters[number] * values[number]).sum().backward()
        gradients.finish()
        found.append([p.grad.clone() for p in parameters])
        model.zero_grad()
    assert all(torch.equal(one, other) for again in found[1:] for one, other in zip(found[0], again, strict=True))


@pytest.mark.parametrize("workers", [2])
def test_in_sixteen_bits_they_are_right_to_eleven(workers):
    """Those too that 16 bits do not hold, such as 1e-7, and what is left of two that cancel. Not what is above 64."""
    with horovod_set(AllreduceSettings(), on_gpu=False, stall_seconds=None, step_seconds=None):
        hvd.init()
    of_rank = torch.tensor([[1.0, 1e-7, 3e-6, -2.5, 1 / 3, 31.0], [2.0, 2e-7, -1e-6, 2.5, 1 / 3, 33.5]])
    model = nn.ParameterList([nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(2, 3, 3, 3))])
    model[1].data = model[1].data.to(memory_format=torch.channels_last)
    gradients = GradientSum(model, AllreduceSettings(compression="fp16"))
    for _ in range(2):
        model.zero_grad()
        gradients.start()
        ((model[0] * of_rank[hvd.rank()]).sum() + (hvd.rank() + 1) * model[1].sum()).backward()
        gradients.finish()
        expected = of_rank.sum(0)
        assert torch.allclose(model[0].grad[:5], expected[:5], rtol=2**-10, atol=0) and model[0].grad[5].isinf()
        assert torch.equal(model[1].grad, torch.full_like(model[1], 3.0))
        assert model[1].grad.is_contiguous(memory_format=torch.channels_last) and model[0].grad.dtype == torch.float32


@pytest.mark.parametrize("workers", [2])
def test_a_gradient_in_parts_is_an_error_and_never_lost(workers):
    """A weight in two segments that are computed again, each by a backward of its own within the backward."""
    with horovod_set(AllreduceSettings(), on_gpu=False, stall_seconds=None, step_seconds=None):
        hvd.init()
    model = nn.Linear(2, 2)
    gradients = GradientSum(model, AllreduceSettings())

    def backward(reentrant):
        x = torch.ones(1, 2, requires_grad=True)
        for _ in range(2):
            x = checkpoint(model, x, use_reentrant=reentrant)
        gradients.start()
        x.sum().backward()
        gradients.finish()

    backward(False)
    assert model.bias.grad.sum() != 0
    with pytest.raises(SettingsError, match="model.name: the gradient of (weight|bias) is made in several parts"):
        backward(True)
