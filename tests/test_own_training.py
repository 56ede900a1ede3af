"""Training networks of the user's own, alike in both frameworks: what is kept, and what chance depends on."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy
from conftest import ON_A_WORKER
from own_job import both, made, mine  # noqa: F401
from steps import micro_batches, plan

from hvd_imagenet.backend import State
from hvd_imagenet.models import own
from hvd_imagenet.stream import share

pytestmark = pytest.mark.one_launch


@both
def test_it_learns_and_repeats(framework):
    one, other = made(framework, width=16), made(framework, width=16)
    assert one.fingerprint() == other.fingerprint()  # names, too
    batches = list(micro_batches(3))
    losses = []
    for _ in range(20):
        one.train_step(plan(3, rate=0.2), batches)
        losses.append(one.take_totals(wait=True)[0][1].loss)
    assert losses[0] == pytest.approx(np.log(4), abs=0.3) and min(losses) < 0.9 * losses[0]
    assert one.fingerprint() != other.fingerprint()
    assert len(one.state().model) == 9 and len(one.state().momentum) == 7


@both
def test_a_network_without_batch_normalisation(framework):
    backend = made(framework, "mine:no_norm")
    backend.broadcast()
    backend.train_step(plan(2), list(micro_batches(2)))
    assert backend.evaluate(list(micro_batches(1))).count == 8 and len(backend.state().model) == 2


@both
def test_frozen_batch_normalisation_keeps_its_statistics(framework):
    backend = made(framework, "mine:frozen_norm")
    state = backend.state()
    statistics = {name for name in state.model if "running" in name}
    assert len(statistics) == 2
    backend.load_state(State({name: array + (name in statistics) for name, array in state.model.items()}, {}))
    backend.train_step(plan(2), list(micro_batches(2)))
    backend.evaluate(list(micro_batches(1)))
    for name, array in backend.state().model.items():
        assert np.array_equal(array, state.model[name] + 1) == (name in statistics), name


def test_batch_normalisation_without_statistics():
    backend = made("torch", "mine:no_statistics")
    backend.train_step(plan(2), list(micro_batches(2)))
    assert backend.evaluate(list(micro_batches(1))).count == 8
    assert [name for name in backend.state().model if name.startswith("0.")] == ["0.weight", "0.bias"]


@both
def test_what_a_network_keeps_beside_its_parameters_is_saved_and_loaded(framework):
    """Buffers, frozen parameters, a parameter without axes; none of them has a momentum but the last."""
    one, other = made(framework, "mine:Counting"), made(framework, "mine:Counting")
    state = one.state()
    [calls] = [name for name in state.model if name.endswith("calls")]
    [largest] = [name for name in state.model if name.endswith("largest")]
    assert state.model[calls] == 0 and not state.model[largest].any()  # trying it out has left no trace
    assert not any("scratch" in name for name in state.model)
    one.train_step(plan(3), list(micro_batches(3)))
    state = one.state()
    assert state.model[calls] == 3 and state.model[calls].dtype == np.int64 and state.model[largest] > 2
    frozen = {name for name in state.model if "frozen" in name}
    momentum = {name for name in state.model if "running" not in name} - {calls, largest} - frozen
    assert state.momentum.keys() == momentum and len(momentum) == 8 and len(frozen) == 2
    assert one.fingerprint().keys() == state.model.keys() - {calls, largest}

    other.load_state(state)
    assert all(np.array_equal(array, other.state().model[name]) for name, array in state.model.items())
    for backend in (one, other):
        backend.train_step(plan(3), list(micro_batches(3)))
    assert one.state().model[calls] == 6 and one.fingerprint() == other.fingerprint()
    with pytest.raises(ValueError, match="has shape None"):
        one.load_state(State({name: array for name, array in state.model.items() if name != calls}, {}))


@both
def test_the_momentum_of_a_parameter_is_that_of_its_own_gradient(framework):
    """The first step is w - eta (1 + m) u; here with two inner models in Keras, whose layers have the same names."""
    backend = made(framework, "mine:nested")
    before = backend.state().model
    backend.train_step(plan(3), list(micro_batches(3)))
    state = backend.state()
    assert len(state.momentum) == 12 and len(state.model) == 16
    for name, u in state.momentum.items():
        assert (before[name] - state.model[name]) / (0.1 * 1.9) == pytest.approx(u, rel=1e-6, abs=1e-9), name
    other = made(framework, "mine:nested")
    other.load_state(state)
    assert other.fingerprint() == backend.fingerprint()


@both
def test_a_parameter_that_two_layers_share_is_one(framework):
    backend = made(framework, "mine:tied")
    before = backend.state().model
    backend.train_step(plan(3), list(micro_batches(3)))
    state = backend.state()
    shared = "dense.weight"
    assert state.momentum.keys() == {"first.weight", "first.bias", shared, "last.weight", "last.bias"}
    assert (before[shared] - state.model[shared]) / (0.1 * 1.9) == pytest.approx(state.momentum[shared], rel=1e-6)


def test_a_network_of_volumes():
    backend = made("torch", "mine:Volumes")
    backend.train_step(plan(2), list(micro_batches(2)))
    assert backend.evaluate(list(micro_batches(1))).count == 8


def steps_with_dropout(framework, restarted=False):
    """Two steps of three micro-batches, half of a layer dropped; from a checkpoint after the first, perhaps."""
    backend = made(framework, dropout=0.5)
    batches = list(micro_batches(3))
    start, stop = share(3, backend.rank, backend.size)
    for step in range(2):
        if step and restarted:
            state = backend.state()
            backend = made(framework, dropout=0.5)
            backend.load_state(state)
        each = dataclasses.replace(plan(3), step=step, samples_seen=24 * step)
        backend.train_step(each, batches[start:stop])
    return backend


@pytest.fixture
def on_one_worker(framework, session_folder):
    """The state after `steps_with_dropout` on one worker, made by the process that starts the others."""
    path = session_folder / f"dropout-{framework}.safetensors"
    if not path.exists() and not ON_A_WORKER:
        safetensors.numpy.save_file(steps_with_dropout(framework).state().model, path)
    return safetensors.numpy.load_file(path)


@pytest.mark.parametrize("workers", [2])
@both
def test_dropout_is_the_same_on_two_workers(framework, on_one_worker, workers):
    state = steps_with_dropout(framework).state()
    for name, array in on_one_worker.items():
        assert state.model[name] == pytest.approx(array, rel=1e-9, abs=1e-9), name


@both
def test_dropout_is_the_same_after_a_restart_and_new_in_each_micro_batch(framework, on_one_worker):
    state = steps_with_dropout(framework, restarted=True).state()
    assert all(np.array_equal(state.model[name], array) for name, array in on_one_worker.items())
    backend = made(framework, dropout=0.5)
    batch = next(micro_batches(1))
    losses = []
    for step in (0, 0, 1):
        each = dataclasses.replace(plan(2, rate=0.0), step=step, samples_seen=16 * step)
        backend.train_step(each, [batch, batch])
        losses.append(list(backend.losses(each).values()))
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1] and losses[0] != losses[2]


@pytest.mark.parametrize("workers", [2])
@both
def test_everyone_gets_rank_0s_buffers(framework, workers):
    backend = made(framework, "mine:Counting")
    backend.train_step(plan(3), list(micro_batches(3))[: 2 - backend.rank])
    state = backend.state()
    [calls] = [name for name in state.model if name.endswith("calls")]
    assert state.model[calls] == 2 - backend.rank
    backend.broadcast()
    assert backend.state().model[calls] == 2


def test_seeds_of_noise():
    """For ever the same, or a run would not go on as it began."""
    assert own.noise_seeds(3, 8192, 5, 2) == [2095638511, 1317952202]
    assert own.initial_seed(3) == 3609863175
