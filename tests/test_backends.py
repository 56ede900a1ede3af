"""What both frameworks' backends do alike, each by the same tests."""

import dataclasses
import time

import numpy as np
import pytest
from steps import made, micro_batches, plan

from hvd_imagenet.backend import State
from hvd_imagenet.stream import share

pytestmark = [pytest.mark.one_launch, pytest.mark.parametrize("framework", ["torch", "keras"])]


@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
def test_every_precision_learns(framework, precision):
    backend = made(framework, precision)
    batches = list(micro_batches(3))
    losses = []
    for _ in range(16):
        backend.train_step(plan(3), batches)
        losses.append(backend.take_totals(wait=True)[0][1].loss)
    assert losses[0] == pytest.approx(np.log(4), abs=0.05)
    assert losses[-1] < 0.7
    assert {array.dtype for array in backend.state().model.values()} == {
        np.dtype(np.float64 if precision == "float64" else np.float32)
    }


def test_state_goes_round(framework):
    one, other = made(framework), made(framework)
    batches = list(micro_batches(3))
    one.train_step(plan(3), batches)
    other.load_state(one.state())
    for backend in (one, other):
        backend.train_step(plan(3, rate=0.05), batches)
    for name, array in one.state().model.items():
        assert np.array_equal(array, other.state().model[name]), name
    assert one.evaluate(batches) == other.evaluate(batches)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.model.pop("fc.bias"),
        lambda state: state.model.update(extra=np.zeros(3)),
        lambda state: state.model.update({"fc.bias": np.zeros(5)}),
        lambda state: state.momentum.update({"fc.bias": np.zeros(4)}),
    ],
)
def test_a_state_of_another_network_is_refused(framework, change):
    backend = made(framework)
    before = backend.state()
    state = State(dict(before.model), {})
    change(state)
    with pytest.raises(ValueError, match="has shape .*, the network's is"):
        backend.load_state(state)
    assert all(np.array_equal(before.model[name], array) for name, array in backend.state().model.items())


def test_evaluation_leaves_training_as_it_was(framework):
    one, other = made(framework), made(framework)
    batches = list(micro_batches(3))
    for backend in (one, other):
        backend.train_step(plan(3), batches)
    one.evaluate(batches[:1])
    for backend in (one, other):
        backend.train_step(plan(3), batches)
    for name, array in one.state().model.items():
        assert np.array_equal(array, other.state().model[name]), name


@pytest.mark.parametrize("workers", [2])
def test_broadcast_gives_everyone_rank_0s_state(framework, workers):
    backend = made(framework)
    if backend.rank == 1:
        state = backend.state()
        backend.load_state(State({name: array + 1 for name, array in state.model.items()}, {}))
    expected = backend.gather(backend.state())[0]
    backend.broadcast()
    assert all(np.array_equal(array, expected.model[name]) for name, array in backend.state().model.items())


@pytest.mark.parametrize("workers", [2])
def test_all_workers_know_in_the_same_step_how_many_are_to_stop(framework, workers):
    backend = made(framework)
    for stopping in ([], [1], [0, 1]):
        backend.train_step(plan(2), list(micro_batches(2))[backend.rank :][:1], stop=backend.rank in stopping)
        [(_, totals)] = backend.take_totals(wait=False)
        assert (totals.stop, totals.count) == (len(stopping), 16)
        assert backend.take_totals(wait=True) == []


@pytest.mark.parametrize("workers", [2])
def test_all_workers_know_how_long_each_has_waited_in_the_step_before(framework, workers):
    backend = made(framework)
    mine = list(micro_batches(2))[backend.rank :][:1]

    def late():
        time.sleep(0.5 * backend.rank)
        yield mine[0]

    for batches in (mine, late(), mine):
        backend.train_step(plan(2), batches)
        [(_, totals)] = backend.take_totals(wait=True)
    prompt, tardy = totals.times
    assert prompt.data < 0.25 <= 0.5 <= tardy.data
    assert tardy.allreduce < 0.25 <= 0.4 <= prompt.allreduce
    assert tardy.whole >= 0.5 and 0.4 <= prompt.whole < 5
    assert backend.gather(totals.times) == [totals.times] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_norms_of_the_mean_gradient_and_of_the_weights_before_the_step(framework, workers):
    backend = made(framework)
    first, end = share(3, backend.rank, backend.size)
    before = backend.state().model
    backend.train_step(plan(3), list(micro_batches(3))[first:end], norms=True)
    [(_, totals)] = backend.take_totals(wait=True)
    momentum = backend.state().momentum  # after one step: the gradient, and the decay of all but gamma and beta
    undecayed = "bn", "downsample.1"
    gradients = [u - 1e-4 * before[n] * all(part not in n for part in undecayed) for n, u in momentum.items()]
    assert totals.norms.gradient == pytest.approx(norm(gradients), rel=1e-9)
    assert totals.norms.weights == pytest.approx(norm([before[name] for name in momentum]), rel=1e-9)
    backend.train_step(plan(3), list(micro_batches(3))[first:end])
    assert backend.take_totals(wait=True)[0][1].norms is None


def norm(arrays):
    return np.sqrt(sum((array**2).sum() for array in arrays))


@pytest.mark.parametrize("workers", [2])
def test_all_workers_count_the_same_meetings_and_their_own_batches(framework, workers):
    backend = made(framework)
    assert backend.pulse.batches == 0
    backend.train_step(plan(3), list(micro_batches(3))[:2] if backend.rank == 0 else list(micro_batches(1)))
    backend.evaluate(list(micro_batches(backend.rank)))
    backend.broadcast()
    one, other = backend.gather(backend.pulse)
    assert one.meetings == other.meetings == backend.pulse.meetings - 1 >= 3
    assert (one.batches, other.batches) == (2, 2)


def test_a_steps_losses_by_number_of_the_micro_batch(framework):
    backend = made(framework)
    batches = list(micro_batches(3))
    first, second = plan(3), dataclasses.replace(plan(3), step=1)
    backend.train_step(first, batches)
    before = backend.losses(first)
    assert sorted(before) == [0, 1, 2]
    assert sum(before.values()) / 3 == pytest.approx(backend.take_totals(wait=True)[0][1].loss, rel=1e-12)
    backend.train_step(second, batches)
    assert backend.losses(first) == before and backend.losses(second) != before


def test_a_device_that_is_one_step_behind_is_not_waited_for_and_no_step_is_left_out(framework):
    backend = made(framework)
    backend._steps._late = 1  # as on a GPU
    plans = [dataclasses.replace(plan(3), step=step) for step in range(5)]
    taken = []
    for each, wait in zip(plans, (False, False, True, False, True), strict=True):
        backend.train_step(each, list(micro_batches(3)))
        taken.append([of.step for of, _ in backend.take_totals(wait)])
    assert taken == [[], [0], [1, 2], [], [3, 4]]


def test_a_fingerprint_is_of_all_that_is_learned_but_the_momentum(framework):
    backend = made(framework, "float32")
    before = backend.fingerprint()
    assert list(before) == list(backend.state().model)
    assert before == made(framework, "float32").fingerprint()
    name, state = "layer2.0.bn1.running_var", backend.state()
    state.model[name][3] = np.nextafter(state.model[name][3], 2, dtype=np.float32)
    backend.load_state(state)
    assert [key for key, value in backend.fingerprint().items() if value != before[key]] == [name]
