"""The PyTorch half: what is decayed, how gradients are summed, whose statistics batch normalisation keeps."""

import horovod.torch as hvd
import pytest
import torch
from steps import made, micro_batches, plan
from torch import nn

from hvd_imagenet.config import AllreduceSettings, OptimizerSettings
from hvd_imagenet.stream import share
from hvd_imagenet.torch.gradients import GradientSum
from hvd_imagenet.torch.model import build_model
from hvd_imagenet.torch.norm import StepStatistics
from hvd_imagenet.torch.optim import contiguous_view, sgd, sgd_param_groups
from hvd_imagenet.torch.state import _sum_of_bits

pytestmark = pytest.mark.one_launch


def test_weight_decay_spares_gamma_and_beta_and_nothing_else():
    model = build_model("resnet8", 10)
    decayed, undecayed = sgd_param_groups(model, 0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    spared = {names[id(p)] for p in undecayed["params"]}
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.5, 0.0)
    assert spared == {n for n in names.values() if ".bn" in n or n.startswith("bn") or ".downsample.1." in n}
    assert {names[id(p)] for p in decayed["params"]} == set(names.values()) - spared
    assert "fc.bias" not in spared


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_by_hand(nesterov):
    """u <- m u + (g + lambda w); w <- w - eta (g + lambda w + m u) or w - eta u: decay coupled, eta outside of u."""
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = sgd(model, OptimizerSettings(momentum=0.9, nesterov=nesterov, weight_decay=0.1))
    w, u = 2.0, 0.0
    model.weight.data.fill_(w)
    for gradient, rate in ((1.0, 0.1), (0.5, 0.4), (-1.0, 0.04)):
        model.weight.grad = torch.full_like(model.weight, gradient)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        d = gradient + 0.1 * w
        u = 0.9 * u + d
        w -= rate * (d + 0.9 * u if nesterov else u)
        assert model.weight.item() == pytest.approx(w, rel=1e-15)


def test_contiguous_views_share_their_memory():
    plain = torch.zeros(4, 3, 2, 2)
    channels_last = plain.to(memory_format=torch.channels_last)
    assert contiguous_view(plain) is plain
    view = contiguous_view(channels_last)
    assert view.is_contiguous() and view.data_ptr() == channels_last.data_ptr()
    assert contiguous_view(plain[:, ::2]) is None


class Branches(nn.Module):
    """A channels-last convolution, and a branch that only rank 0 takes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(4))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return (y * self.scale).sum() if hvd.rank() == 0 else y.sum()


@pytest.mark.parametrize("mib", [None, 2e-4])
@pytest.mark.parametrize("workers", [2])
def test_gradients_are_summed_once_in_the_last_backward(workers, mib):
    """In one bucket and in several: gradients of 864 (a convolution's weight), 32 (its bias), 32 and 16 bytes."""
    hvd.init()
    torch.manual_seed(0)
    model = Branches().double().to(memory_format=torch.channels_last)
    inputs = torch.randn(2, 2, 5, 3, 6, 6, dtype=torch.float64)  # worker, micro-batch, images
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for rank in range(2):
        for images in inputs[rank]:
            y = model.conv(images).mean((2, 3))
            loss = (y * model.scale).sum() if rank == 0 else y.sum()
            found = torch.autograd.grad(loss, [model.conv.weight, model.conv.bias, model.scale], allow_unused=True)
            for name, gradient in zip(("conv.weight", "conv.bias", "scale"), found, strict=True):
                expected[name] += 0 if gradient is None else gradient

    gradients = GradientSum(model, AllreduceSettings(bucket_mib=mib))
    assert len(gradients._buckets) == (1 if mib is None else 3)
    for _ in range(2):  # twice: nothing is left over from the first time
        model.zero_grad()
        first, last = (model(images.to(memory_format=torch.channels_last)) for images in inputs[hvd.rank()])
        first.backward()
        gradients.start()
        last.backward()
        gradients.finish()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert torch.allclose(parameter.grad, expected[name], rtol=1e-12, atol=1e-12), name
    assert model.conv.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_statistics_are_the_mean_over_micro_batches_with_each_layers_momentum():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1), nn.BatchNorm2d(3, momentum=0.3)).double()
    statistics = StepStatistics(model, 4)
    batches = [torch.randn(4, 3, 5, 5, dtype=torch.float64) * 2 + 1 for _ in range(3)]
    for batch in batches:
        model(batch)
        statistics.add()
    statistics.update(statistics.sums, 3)
    running = {name: value.clone() for name, value in statistics.named()}
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    var = torch.stack([b.var((0, 2, 3), unbiased=True) for b in batches]).mean(0)
    assert torch.allclose(running["0.running_mean"], 0.1 * mean, rtol=1e-12)
    assert torch.allclose(running["0.running_var"], 0.9 + 0.1 * var, rtol=1e-12)
    # The second layer sees the first one's output, mean 0 and biased variance 1 (but for epsilon).
    seen = torch.stack([model[0].train()(b).var((0, 2, 3), unbiased=True) for b in batches]).mean(0)
    assert torch.allclose(running["1.running_var"], 0.7 + 0.3 * seen, rtol=1e-12)
    statistics.use_running()
    model.eval()
    x = batches[0]
    shape = (1, 3, 1, 1)
    y = (x - running["0.running_mean"].view(shape)) / (running["0.running_var"].view(shape) + 1e-5).sqrt()
    assert torch.allclose(model[0](x), y, rtol=1e-12)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_and_its_totals_against_plain_pytorch(workers):
    """Three micro-batches of 8 on one worker or two: loss, weights and counts of the plain loop, in float64."""
    backend = made("torch")
    batches = list(micro_batches(3))
    start, stop = share(3, backend.rank, backend.size)
    backend.train_step(plan(3), batches[start:stop])
    [(of, totals)] = backend.take_totals(wait=True)
    assert of == plan(3) and totals.stop == 0

    model = build_model("resnet8", 4, dtype=torch.float64).train()
    optimizer = sgd(model, OptimizerSettings())
    losses, top1, top5 = [], 0, 0
    for batch in batches:
        scores = model(torch.from_numpy(batch.images).permute(0, 3, 1, 2).double())
        labels = torch.from_numpy(batch.labels)
        losses.append(nn.functional.cross_entropy(scores, labels))
        top1 += (scores.argmax(1) == labels).sum().item()
        top5 += len(labels)  # of four classes
    torch.stack(losses).mean().backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()

    assert (totals.top1, totals.top5, totals.count) == (top1, top5, 24)
    assert totals.loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)
    state = backend.state()
    for name, parameter in model.named_parameters():
        assert state.model[name] == pytest.approx(parameter.detach().numpy(), rel=1e-9, abs=1e-12), name
        expected = optimizer.state[parameter]["momentum_buffer"].numpy()
        assert state.momentum[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.float64, 64)])
def test_every_flipped_bit_changes_the_fingerprint(dtype, bits):
    """For values whose bits are all 0, mixed, and all but one 1, in every position; and so does another order."""
    integers = {32: torch.int32, 64: torch.int64}[bits]
    values = torch.tensor([0, 0x3F123456, -2, 7], dtype=integers).view(dtype)
    whole = _sum_of_bits(values)
    for place in range(4):
        for bit in range(bits):
            flipped = values.clone().view(integers)
            flipped[place] ^= torch.tensor(-(2 ** (bits - 1)) if bit == bits - 1 else 2**bit, dtype=integers)
            assert _sum_of_bits(flipped.view(dtype)) != whole, (place, bit)
    assert _sum_of_bits(values.flip(0)) != whole
