"""Several micro-batches in one forward: how they are cut, how many are fastest, and that nothing changes by it."""

import dataclasses

import numpy as np
import pytest
from steps import config, micro_batches, plan

from hvd_imagenet import backend as backends
from hvd_imagenet import forwards as module
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.config import Config, DataSettings, ModelSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.forwards import fastest, forwards, most_per_forward
from hvd_imagenet.policy import BatchSettings
from hvd_imagenet.startup import check_same_walk
from hvd_imagenet.stream import share

both = pytest.mark.parametrize("framework", ["torch", "keras"])


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(3, 1, [1, 1, 1]), (4, 4, [4]), (5, 4, [3, 2]), (8, 4, [4, 4]), (10, 4, [4, 3, 3]), (2, 9, [2]), (1, 1, [1])],
)
def test_a_step_is_cut_into_few_forwards_of_nearly_one_size(count, most, sizes):
    cut = list(forwards(iter(range(count)), count, most))
    assert [len(part) for part in cut] == sizes
    assert sum(cut, []) == list(range(count))


@pytest.mark.parametrize(
    ("batch", "of", "most"),
    [
        (BatchSettings(256, 32), 1, 1),
        (BatchSettings(256, 32, 32), 1, 1),
        (BatchSettings(256, 32, 96), 1, 3),
        (BatchSettings(256, 32, "auto"), 1, 8),
        (BatchSettings(256, 32, "auto"), 3, 3),
        (BatchSettings({0: 64, 5: 320}, 32, "auto"), 5, 2),
        (BatchSettings(256, 32, "auto"), 8, 1),
    ],
)
def test_at_most(batch, of, most):
    assert most_per_forward(batch, of) == most


@pytest.mark.parametrize(
    ("seconds", "most", "best"),
    [
        ({1: 1.0, 2: 1.95, 4: 3.8, 8: 7.6}, 8, 4),  # of a sample, by halves of a hundredth: 1, 0.975, 0.95, 0.95
        ({1: 1.0, 2: 1.97}, 8, 1),  # 0.985 is not worth it
        ({1: 1.0, 2: 1.5, 4: 2.0, 8: 2.0}, 7, 4),  # 8 are more than there are
        ({1: 1.0, 2: 1.5, 4: None}, 8, 2),  # None: not enough memory
        ({1: None}, 8, 1),
    ],
)
def test_the_fastest(seconds, most, best, monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def take(count):
        asked.append(count)
        if seconds[count] is None:
            raise MemoryError
        now[0] += seconds[count]

    assert fastest(most, take, lambda value: [value]) == best
    assert max(asked) <= most


def test_the_slowest_worker_decides(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def take(count):
        now[0] += {1: 1.0, 2: 1.0, 4: 1.0}[count]

    others = iter([1.0, 1.9, 3.9])  # of a sample: 1, 0.95, 0.975
    assert fastest(4, take, lambda value: [value, next(others)]) == 2


def grouped(framework, size, precision="float64"):
    base = config(framework, precision)
    return backends.load(framework)(dataclasses.replace(base, batch=dataclasses.replace(base.batch, forward_size=size)))


@pytest.mark.one_launch
@pytest.mark.parametrize("workers", [1, 2])
@both
def test_nothing_changes_but_the_speed(framework, workers):
    """Steps of 7 and 3 micro-batches of 8, by threes and one by one, on one worker and two: float64, within 1e-9."""
    found = []
    for size in (None, 24):
        backend, told = grouped(framework, size), []
        for number, count in enumerate((7, 3, 7)):
            own = slice(*share(count, backend.rank, backend.size))
            of = dataclasses.replace(plan(count), step=number)
            backend.train_step(of, list(micro_batches(count, seed=number))[own])
            [(_, totals)] = backend.take_totals(wait=True)
            told.append(([totals.loss, totals.top1, totals.top5, totals.count], backend.losses(of)))
        found.append((backend.state(), told))
    (one, ones), (other, others) = found
    for (totals, losses), (expected, each) in zip(others, ones, strict=True):
        assert totals == pytest.approx(expected, rel=1e-9)
        assert losses == pytest.approx(each, rel=1e-9)
    for part in ("model", "momentum"):
        for name, array in vars(one)[part].items():
            assert vars(other)[part][name] == pytest.approx(array, rel=1e-9, abs=1e-12), name


@pytest.mark.one_launch
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@both
def test_in_lower_precision(framework, precision):
    """The kernels of float32 and bf16 are others: statistics after a step are those of float64, as far as they can be.

    The deepest layers see 32 values per channel of a micro-batch: the biased variance would be 3 % less.
    """
    states = []
    for kind in ("float64", precision):
        backend = grouped(framework, 24, kind)
        backend.train_step(plan(3), list(micro_batches(3)))
        states.append(backend.state().model)
    tolerance = {"float32": 1e-5, "bf16": 3e-2}[precision]
    for name, array in states[0].items():
        if name.endswith("running_var"):
            assert states[1][name] == pytest.approx(array, rel=tolerance), name
        if name.endswith("running_mean"):
            assert np.abs(states[1][name] - array).max() < tolerance, name


@pytest.mark.one_launch
@both
def test_to_measure_leaves_no_trace(framework):
    backend, plain = grouped(framework, "auto"), grouped(framework, None)
    assert backend._most in (1, 2)
    for one in (backend, plain):
        one.train_step(plan(3), list(micro_batches(3)))
    state, expected = backend.state(), plain.state()
    for name, array in expected.model.items():
        assert state.model[name] == pytest.approx(array, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("size", [0, -32, 16, 48, "all"])
def test_a_forward_is_of_whole_micro_batches(size):
    with pytest.raises(ValueError, match=rf"batch.forward_size: {size}; give a multiple of batch.micro_size \(32\)"):
        BatchSettings(256, 32, size)


@pytest.mark.parametrize(("size", "refused"), [(None, False), (32, False), (64, True), ("auto", True)])
def test_a_network_of_ones_own_sees_one_micro_batch(size, refused):
    def made():
        return Config(model=ModelSettings("mine:net", 4), batch=BatchSettings(256, 32, size))

    if refused:
        with pytest.raises(ValueError, match="batch.forward_size: .*; a network of your own"):
            made()
    else:
        made()


def test_a_run_may_go_on_with_other_forwards():
    batch = {"global_size": 256, "micro_size": 32, "grow": {"limit": None}}
    policy, progress = Config(data=DataSettings(train_samples=512)).policy(512), Progress(1, 256)
    check_same_walk({"batch": {**batch, "forward_size": 64}}, {"batch": batch}, policy, progress)
    with pytest.raises(SettingsError, match="batch.micro_size was 32 and is 64"):
        check_same_walk({"batch": {**batch, "micro_size": 64}}, {"batch": batch}, policy, progress)
