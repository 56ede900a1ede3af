"""The planner's formulae, each against numbers worked out by hand on both sides of its boundaries."""

from dataclasses import replace

import pytest

from hvd_imagenet import settings
from hvd_imagenet.models import layers
from hvd_imagenet.models.spec import RESNETS
from hvd_imagenet.planner import allreduce
from hvd_imagenet.planner.cluster import Cluster, Link
from hvd_imagenet.planner.memory import AHEAD, IN_USE, memory
from hvd_imagenet.planner.run import Run, with_batch
from hvd_imagenet.planner.step import Network, Speed, Step, largest_of
from hvd_imagenet.planner.transport import TRANSPORTS, Transport

SLOW, FAST = Link(1e-3, 100), Link(1e-4, 1000)  # seconds and bytes per second
FREE = Link(0, 1e15)
HOURS = 3600


def config(*arguments):
    return settings.parse(settings.parser("test", "a test"), list(arguments))[0]


def cluster(workers, per_node, network=SLOW, inside=FAST):
    return Cluster(workers, per_node, network, inside)


def step(micro_batches, workers, per_node=1, link=FREE, spread=0.0, recipe="resnet50_8k", **speed):
    return Step(
        micro_batches,
        32,
        cluster(workers, per_node, link, FREE),
        Network.of(config("--config", recipe)),
        Speed(0.12, spread, **speed),
        TRANSPORTS["nccl"],
    )


@pytest.mark.parametrize(("partners", "share"), [(1, 0), (2, 1), (3, 4 / 3), (4, 1.5), (32, 1.9375)])
def test_bytes_sent(partners, share):
    assert allreduce.sent(partners, 1000) == pytest.approx(1000 * share)


@pytest.mark.parametrize(
    ("partners", "ring", "halving"),
    [(1, 0, 0), (2, 2, 2), (3, 4, 4), (4, 6, 4), (5, 8, 6), (8, 14, 6), (9, 16, 8), (32, 62, 10), (33, 64, 12)],
)
def test_steps(partners, ring, halving):
    """2 (p - 1) and 2 log2(p); between powers of two, as the next one has: one more step each way."""
    assert allreduce.ring_steps(partners) == ring
    assert allreduce.halving_steps(partners) == halving


@pytest.mark.parametrize(
    ("count", "per_node", "ring", "halving", "hierarchical"),
    [
        (1, 1, 0, 0, 0),
        # 2 steps and 200 of 200 bytes over the slow link, or the fast one inside of a node.
        (2, 1, 0.002 + 2.0, 0.002 + 2.0, 0.002 + 2.0),
        (2, 2, 0.0002 + 0.2, 0.0002 + 0.2, 2 * (0.0001 + 0.2)),
        # 6 steps and 300 bytes around the ring. By halves: 2 steps and 200 bytes inside, as much between 2 nodes.
        (4, 2, 0.006 + 3.0, 0.2002 + 2.002, 2 * 0.2001 + 2.002),
        (4, 1, 0.006 + 3.0, 0.004 + 3.0, 0.004 + 3.0),
        # 3 nodes are no power of two: 4 steps and 4/3 of 200 bytes.
        (6, 2, 0.010 + 1000 / 300, 0.2002 + 0.004 + 800 / 300, 2 * 0.2001 + 0.004 + 800 / 300),
    ],
)
def test_all_reduce_of_200_bytes(count, per_node, ring, halving, hierarchical):
    there = cluster(count, per_node)
    found = [allreduce.ALGORITHMS[name](there, 200) for name in ("ring", "halving/doubling", "hierarchical")]
    assert found == pytest.approx([ring, halving, hierarchical], rel=1e-12)


def test_a_ring_waits_for_the_slowest_link_on_its_way():
    assert cluster(4, 2, SLOW, FAST).slowest == cluster(4, 2, FAST, SLOW).slowest == SLOW
    assert cluster(4, 2, Link(1, 10), Link(2, 5)).slowest == Link(2, 5)
    assert cluster(4, 4, SLOW, FAST).slowest == FAST
    assert cluster(4, 1, FAST, SLOW).slowest == FAST


def test_the_bandwidth_of_the_paper():
    """2 x 100 MB / 0.125 s = 12.8 Gbit/s, of any number of partners; and what the exact figures of 32 servers give."""
    assert 8 * allreduce.bandwidth_needed(10**9, 100e6, 0.125) == pytest.approx(12.8e9, rel=1e-8)
    gradients = Network.of(config("--config", "resnet50_8k")).gradient_bytes
    assert gradients == 4 * 25_557_032
    assert 8 * allreduce.bandwidth_needed(32, gradients, 0.120) == pytest.approx(13.2e9, rel=1e-3)
    assert allreduce.bandwidth_needed(1, gradients, 0.120) == 0


@pytest.mark.parametrize(("size", "faster"), [(1e3, 6.2), (1.5e6, 3), (1e10, 1)])
def test_halving_and_doubling_on_the_papers_32_servers(size, faster):
    """62 steps or 10: 6.2 times as fast where latency is all, 3 times in between, no faster where bandwidth is."""
    link = Link(30e-6, 50e9 / 8)
    seconds = [allreduce.between(steps, 32, link, size) for steps in (allreduce.ring_steps, allreduce.halving_steps)]
    assert seconds[0] / seconds[1] == pytest.approx(faster, rel=0.03)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameters_are_torchvisions(name, parameters):
    assert layers.parameters(layers.layers(RESNETS[name], 1000, 224)) == parameters


def test_operations():
    """Two to each multiply-add; resnet50's are known to be 4.09 G of these, the stem's 49 x 3 x 64 x 112^2."""
    of_resnet50 = layers.layers(RESNETS["resnet50"], 1000, 224)
    assert layers.forward_flops(of_resnet50) == pytest.approx(2 * 4.09e9, rel=1e-3)
    assert of_resnet50[0].forward_flops == 2 * 49 * 3 * 64 * 112**2
    assert of_resnet50[-1].forward_flops == 2 * 2048 * 1000
    stem, first, *_ = layers.layers(RESNETS["resnet8"], 10, 9)  # 9, 9, then 5, then 3 pixels wide
    assert (stem.name, stem.forward_flops) == ("conv1", 2 * 9 * 3 * 16 * 81)
    by_name = {layer.name: layer for layer in layers.layers(RESNETS["resnet8"], 10, 9)}
    assert by_name["layer2.0.conv1"].forward_flops == 2 * 9 * 16 * 32 * 25
    assert by_name["layer3.0.downsample.0"].forward_flops == 2 * 32 * 64 * 9
    assert by_name["layer3.0.conv2"].parameters == 9 * 64 * 64 + 2 * 64


@pytest.mark.parametrize(("name", "size"), [("resnet8", 29), ("resnet18", 75), ("resnet50", 64)])
def test_order_and_memory_are_pytorchs(name, size):
    """What autograd keeps is all but what it keeps of statistics and scores, some per cent of small images."""
    import torch

    from hvd_imagenet.torch.model import build_model

    images, model, kept, order = torch.randn(2, 3, size, size), build_model(name, 10), {}, []
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for key, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, key=key: order.append(key.removesuffix(".weight")))

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # which is therefore not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
    loss.backward()
    costs = layers.layers(RESNETS[name], 10, size)
    names = {layer.name for layer in costs}
    assert [layer.name for _, layer in layers.ready(costs)] == [key for key in order if key in names]
    found = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    expected = 2 * sum(4 * layer.saved + layer.saved_bytes for layer in costs) + 4 * images.numel()
    assert 0.98 * found < expected < found


def test_gradients_are_ready_in_the_order_of_the_backward():
    ready = list(layers.ready(layers.layers(RESNETS["resnet8"], 10, 28)))
    parts = [part for part, _ in ready]
    assert parts == sorted(parts) and parts[-1] == 1
    assert ready[0][1].name == "fc" and ready[-1][1].name == "conv1"
    whole = layers.forward_flops([layer for _, layer in ready])
    assert parts[0] == pytest.approx(2 * 64 * 10 / whole)


@pytest.mark.parametrize(
    ("blocks", "tensors", "end"),
    [
        # Half a cycle, 0.08 s to agree on what is ready, 1 s to send 100 bytes.
        (True, [(0.0, 100)], 0.5 + 0.08 + 1),
        # The first is long over when the second comes, which is as exposed as if it were alone.
        (True, [(0.0, 100), (10.0, 100)], 10 + 0.5 + 0.08 + 1),
        # The second and third come while the first is sent, until 10.58: they are agreed on when that is over ...
        (True, [(0.0, 1000), (1.0, 100), (2.0, 100)], 0.58 + 10 + 0.08 + 2),
        # ... or meanwhile, and wait in the queue of the GPU.
        (False, [(0.0, 1000), (1.0, 100), (2.0, 100)], 0.58 + 10 + 2),
        # Those that are ready together are agreed on together.
        (True, [(0.0, 1500), (0.0, 500)], 0.58 + 20),
        (True, [], 0.0),
    ],
)
def test_cycles(blocks, tensors, end):
    """Two hosts, 100 bytes per second, no latency, a look every second; 8 bytes to agree."""
    transport = Transport("test", ("ring",), blocks, 1.0, FREE)
    assert transport.finished(cluster(2, 1, Link(0, 100)), tensors) == pytest.approx(end, rel=1e-9)


def test_buckets_are_filled():
    """100 bytes at 400 bytes per second."""
    transport = Transport("test", ("ring",), True, 1.0, FREE, copying=400)
    assert transport.finished(cluster(2, 1, Link(0, 100)), [(0.0, 100)]) == pytest.approx(0.58 + 1 + 0.25)


def test_a_worker_alone_sums_nothing():
    assert TRANSPORTS["gloo"].finished(cluster(1, 1), [(0.0, 100), (10.0, 100)]) == 10
    assert step(256, 1).exposed == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "size", "algorithm"),
    [
        # NCCL has rings, and trees of chains; no halving and doubling, which would be the fastest here.
        ("nccl", 1e6, "hierarchical"),
        ("nccl", 1e9, "ring"),
        ("mpi", 1e6, "halving/doubling"),
        ("gloo", 1e6, "ring"),
    ],
)
def test_a_transport_takes_the_fastest_that_it_has(name, size, algorithm):
    there, transport = cluster(256, 8, Link(30e-6, 50e9 / 8), Link(10e-6, 12e9)), TRANSPORTS[name]
    assert transport.algorithm(there, size) == algorithm
    assert transport.seconds(there, size) == allreduce.ALGORITHMS[algorithm](there, size)


@pytest.mark.parametrize(("count", "exact"), [(1, 0), (2, 0.5642), (8, 1.4236), (32, 2.0697), (128, 2.6048)])
def test_the_largest_of_some_normal_variables(count, exact):
    assert largest_of(count) == pytest.approx(exact, rel=0.05, abs=1e-12)


@pytest.mark.parametrize(("micro_batches", "count", "share"), [(7, 1, 7), (7, 3, 3), (7, 6, 2), (7, 7, 1), (8, 4, 2)])
def test_the_slowest_share(micro_batches, count, share):
    found = step(micro_batches, count)
    assert found.share == share
    assert found.computing == pytest.approx(share * 0.12)


def test_a_step_is_computing_waiting_and_what_is_left_of_the_all_reduce():
    """On links that cost nothing, half a cycle of 1 ms is left. With a spread of 0.1, 2 nodes wait 0.059 x 0.12 s."""
    free, spread = step(8, 8), step(8, 2, 1, spread=0.1)
    assert free.exposed == pytest.approx(0.5e-3, rel=1e-4)
    assert free.seconds == pytest.approx(0.1205)
    assert spread.slowest == pytest.approx(4 * 0.12 * 0.1 * 0.5895, rel=1e-3)
    assert spread.seconds == pytest.approx(4 * 0.12 + spread.slowest + 0.5e-3)
    assert step(8, 8, 8, spread=0.1).slowest == 0  # within a node
    assert free.efficiency == pytest.approx(0.12 / 0.1205)


@pytest.mark.parametrize(
    ("rate", "exposed"),
    [
        # 102.2 MB and 0.2 MB of the step vector between two hosts, of which all but the last layers' are sent in the
        # 80 ms of the backward at 20 GB/s; at 100 MB/s, it takes 1.02 s from the first on.
        (20e9, 0.001),
        (100e6, 1.0244 - 0.08),
    ],
)
def test_an_all_reduce_is_hidden_or_exposed(rate, exposed):
    assert step(2, 2, link=Link(0, rate)).exposed == pytest.approx(exposed, rel=0.01, abs=0.0005)


def test_images_come_from_storage_and_decoders():
    """2 nodes of 4: each reads 4 x 32 images of 1 MB per step, each worker decodes 32."""
    assert step(8, 8, 4, image=1e6, storage=1e9).reading == pytest.approx(0.128)
    assert step(8, 8, 4, loader=160).decoding == pytest.approx(0.2)
    assert step(8, 8, 4).reading == step(8, 8, 4).decoding == 0
    fed = step(8, 8, 4, image=1e6, storage=1e9)
    assert fed.seconds == 0.128 and fed.images_per_second == pytest.approx(256 / 0.128)
    assert step(8, 8, 4, image=1e6, storage=2e9).seconds == step(8, 8, 4).working


def test_gradients_in_sixteen_bits_are_half_as_long():
    """On the wire, not in memory, where there is a second buffer for them; in the same buckets."""
    whole, half = (
        Network.of(config("--config", "resnet50_8k", "--allreduce.compression", kind)) for kind in ("none", "fp16")
    )
    assert half.wire_bytes == 2 * 25_557_032 and half.gradient_bytes == whole.wire_bytes == 4 * 25_557_032
    (_, vector), *gradients = half.tensors(1.0)
    assert [(moment, 2 * count) for moment, count in gradients] == whole.tensors(1.0)[1:]
    assert vector == whole.step_vector_bytes


@pytest.mark.parametrize(("precision", "element", "activation"), [("float32", 4, 4), ("bf16", 4, 2), ("float64", 8, 8)])
def test_what_is_sent_and_kept(precision, element, activation):
    """Both backends keep weights and gradients in float32 where activations are in bfloat16."""
    network = Network.of(config("--config", "fashion_mnist", "--precision", precision))
    assert (network.element, network.activation) == (element, activation)
    assert network.gradient_bytes == network.wire_bytes == element * 78_042
    # 16 channels in the stem and twice in a block; then 32 and 64, three times each, with the shortcut.
    assert network.step_vector_bytes == element * (2 * (3 * 16 + 3 * 32 + 3 * 64) + 5)


def test_memory():
    from hvd_imagenet.backend import InUse
    from hvd_imagenet.data import dali, loader

    assert dali.PREFETCH + loader.DECODED_AHEAD == AHEAD and InUse.FORWARDS == IN_USE
    found = memory(step(8, 8), 224, 32)
    assert found["weights"] == found["gradients"] == found["momentum"] == 4 * 25_557_032
    assert found["decoded images"] == 7 * 32 * 3 * 4 * 224**2
    assert found["buckets"] == found["gradients"]
    assert found["activations"] == pytest.approx(2.73e9, rel=0.01)
    twice = memory(step(8, 8), 224, 64)
    assert twice["activations"] == 2 * found["activations"]
    assert twice["decoded images"] == (5 * 32 + 2 * 64) * 3 * 4 * 224**2
    assert "buckets" not in memory(step(8, 1), 224, 32)
    compressed = replace(
        step(8, 8), network=Network.of(config("--config", "resnet50_8k", "--allreduce.compression", "fp16"))
    )
    assert memory(compressed, 224, 32)["buckets"] == 6 * 25_557_032


def planned(recipe, workers, per_node=8, *options, milliseconds=120.0, spread=0.05):
    settled = config("--config", recipe, *options)
    links = Cluster(workers, per_node, Link(30e-6, 50e9 / 8 * 1448 / 1538), Link(10e-6, 12e9))
    return Run(settled, links, Network.of(settled), Speed(milliseconds / 1000, spread), TRANSPORTS["nccl"])


@pytest.mark.parametrize(("size", "at_once"), [("null", 32), ("auto", 32), ("64", 64), ("256", 128)])
def test_images_of_a_forward_are_at_most_a_workers(size, at_once):
    """8,192 on 64 workers are 128 for each."""
    assert planned("resnet50_8k", 64, 8, "--batch.forward_size", size).at_once == at_once


def test_a_run_is_the_sum_of_its_steps():
    """256 images for 5 of 90 epochs, then 8,192: 25,024 steps of 8 micro-batches, and then 13,294 of 256."""
    run = planned("resnet50_8k", 8, 8, "--batch.global_size", "{0: 256, 5: 8192}")
    small, large = -(-5 * 1_281_167 // 256), -(-85 * 1_281_167 // 8192)
    assert run.steps == {8: small, 256: large}
    assert run.seconds == pytest.approx(small * run.step(8).seconds + large * run.step(256).seconds)
    assert run.main_step.micro_batches == 256
    assert run.images_per_second == pytest.approx((small * 256 + large * 8192) / run.seconds)
    alone = (small * 8 + large * 256) * 0.12
    assert run.efficiency == pytest.approx(alone / 8 / run.seconds)


def test_more_workers_than_micro_batches_get_one_each():
    assert not planned("resnet50_8k", 256).raised
    more = planned("resnet50_8k", 512)
    assert more.raised and more.config.batch.global_size == 512 * 32
    ramp = with_batch(config("--config", "resnet50_8k", "--batch.global_size", "{0: 256, 5: 8192}"), 1024)
    assert ramp.batch.global_size == {0: 1024, 5: 8192}
    grown = with_batch(config("--config", "resnet50_8k", "--batch.grow.limit", "16384"), 32768)
    assert (grown.batch.global_size, grown.batch.grow.limit) == (32768, 32768)


@pytest.mark.parametrize(
    ("count", "per_node", "rows"),
    [
        (256, 8, [8, 16, 32, 64, 128, 256, 512, 1024]),
        (2, 1, [2, 8, 16, 32, 64, 128, 256, 512, 1024]),
        (96, 6, [12, 24, 48, 96, 192, 384, 768]),
        (2048, 8, [8, 16, 32, 64, 128, 256, 512, 1024, 2048]),
    ],
)
def test_the_rows_of_the_table(count, per_node, rows):
    assert [run.cluster.workers for run in planned("resnet50_8k", count, per_node).others()] == rows


def test_the_table_ends_where_the_run_does():
    """6,000 samples have 187 micro-batches of 32, and no step of 256."""
    rows = planned("fashion_mnist", 8, 8, "--data.train_samples", "6000", "--epochs", "1").others()
    assert [run.cluster.workers for run in rows] == [8, 16, 32, 64, 128]


def test_the_papers_hour():
    """29 h on 8 GPUs are 231.8 ms a step; 256 of them take about an hour, near 90 % of 32 times as fast."""
    milliseconds = 29 * HOURS * 1000 / (90 * 1_281_167 / 256)
    few, many = (
        planned(recipe, k, milliseconds=milliseconds) for recipe, k in (("resnet50_256", 8), ("resnet50_8k", 256))
    )
    assert few.seconds == pytest.approx(29 * HOURS, rel=0.01)
    assert many.seconds == pytest.approx(1 * HOURS, rel=0.03)
    assert few.seconds / many.seconds / 32 == pytest.approx(0.90, abs=0.015)


def test_the_papers_growth_of_a_step():
    """By 12 % from 8 to 352 GPUs."""
    steps = [planned("resnet50_256", workers, milliseconds=232).main_step.seconds for workers in (8, 352)]
    assert steps[1] / steps[0] == pytest.approx(1.12, abs=0.015)
