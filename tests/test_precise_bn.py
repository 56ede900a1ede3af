"""Evaluations for which batch normalisation's statistics are recomputed: which they are, and what stays as it was."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import ON_A_WORKER
from own_job import both, mine  # noqa: F401
from own_job import made as made_own
from steps import config, made, micro_batches, plan

from hvd_imagenet import backend as backends
from hvd_imagenet.backend import Batch, NormBatches, State
from hvd_imagenet.config import EvaluateSettings, ModelSettings
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.stream import share
from hvd_imagenet.totals import Totals

pytestmark = pytest.mark.one_launch

EVALUATED = list(micro_batches(2, seed=7, size=5))


def trained(framework, name=None):
    """A backend after a step, so that running statistics are neither the initial ones nor those of any batch."""
    backend = made_own(framework, name) if name else made(framework)
    first, end = share(5, backend.rank, backend.size)
    backend.train_step(plan(5, rate=0.05), list(micro_batches(5))[first:end])
    return backend


def norm(backend, count, missing=0):
    """This worker's share of so many micro-batches, without its last ones."""
    first, end = share(count, backend.rank, backend.size)
    return NormBatches(count, iter(list(micro_batches(count, seed=3))[first : end - missing]))


def shared(backend, batches):
    return batches[slice(*share(len(batches), backend.rank, backend.size))]


def plain(one, other):
    """Four images of one level of red and four of another, of green twice, and of blue minus as much."""
    levels = np.array([one, other] * 4, np.float32)[:, None, None, None] * np.array([1, 2, -1], np.float32)
    return Batch(np.broadcast_to(levels, (8, 8, 8, 3)).copy(), np.arange(8) % 4)


@both
def test_the_statistics_by_hand(framework):
    """Means over micro-batches of mean and unbiased variance: of 512 values, 0 or 2, 1 and 512/511; of fours, 4 and 0;
    of 0 and 8, 4 and 16 * 512/511."""
    backend, other = made_own(framework, "mine:norm_first"), made_own(framework, "mine:norm_first")
    sample = [plain(0, 2), plain(4, 4), plain(0, 8)]
    found = backend.evaluate(EVALUATED, NormBatches(3, sample))
    state = backend.state()
    [mean] = [name for name in state.model if name.endswith("running_mean")]
    [variance] = [name for name in state.model if name.endswith("running_var")]
    assert not state.model[mean].any() and (state.model[variance] == 1).all()
    by_hand = {mean: 3.0 * np.array([1, 2, -1]), variance: 17 / 3 * 512 / 511 * np.array([1, 4, 1])}
    other.load_state(State({**state.model, **by_hand}, {}))
    expected = other.evaluate(EVALUATED)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert abs(backend.evaluate(EVALUATED).loss - expected.loss) > 0.01


@both
def test_of_the_samples_of_a_single_step_they_are_what_a_momentum_of_one_would_make(framework):
    """Of running statistics r, a step at rate 0 makes r + a (sum / M - r) with a = 0.1: solved for sum / M."""
    backend, other = trained(framework), trained(framework)
    before = other.state().model
    other.train_step(dataclasses.replace(plan(3, rate=0.0), step=1), list(micro_batches(3, seed=3)))
    after = other.state()
    for name in before:
        if "running" in name:
            after.model[name] = before[name] + (after.model[name] - before[name]) / 0.1
    other.load_state(after)
    found, expected = backend.evaluate(EVALUATED, norm(backend, 3)), other.evaluate(EVALUATED)
    assert found.loss == pytest.approx(expected.loss, rel=1e-11)
    assert abs(found.loss - backend.evaluate(EVALUATED).loss) > 1e-3


def test_pytorch_and_keras_agree():
    found = []
    for framework in ("torch", "keras"):
        backend = trained(framework)
        found.append(backend.evaluate(EVALUATED, norm(backend, 4)))
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-9)
    assert dataclasses.replace(found[1], loss_sum=0) == dataclasses.replace(found[0], loss_sum=0)


NETWORKS = [None, "mine:net", "mine:remembering", "mine:Counting", "mine:nested"]
COUNTS = [1, 2, 5]  # micro-batches; on three workers there are fewer than workers


def losses_of(framework, name):
    """Each by so many micro-batches; of layers that remember before the first step, after which it matters who has seen
    what."""
    backend = made_own(framework, name) if name == "mine:remembering" else trained(framework, name)
    return [backend.evaluate(shared(backend, EVALUATED), norm(backend, count)).loss for count in COUNTS]


@pytest.fixture
def on_one_worker(framework, session_folder):
    """The losses on one worker, by network; made by the process that starts the others."""
    path = session_folder / f"precise-{framework}.json"
    if not path.exists() and not ON_A_WORKER:
        path.write_text(json.dumps([losses_of(framework, name) for name in NETWORKS[:3]]))
    return json.loads(path.read_text())


@pytest.mark.parametrize("workers", [2, 3])
@both
def test_they_are_the_same_on_any_number_of_workers(framework, on_one_worker, workers):
    """Of a network of the table, and of one whose layers draw, and remember what they have seen in training."""
    for name, expected in zip(NETWORKS[:3], on_one_worker, strict=True):
        assert losses_of(framework, name) == pytest.approx(expected, rel=1e-9)
        assert len({round(loss, 6) for loss in expected}) == len(COUNTS)


@pytest.mark.parametrize("name", NETWORKS)
@both
def test_they_leave_no_trace(framework, name):
    """Neither in what is saved nor in later steps; and they are the same each time."""
    one, other = trained(framework, name), trained(framework, name)
    before = one.state()
    found = [one.evaluate(EVALUATED, norm(one, 3)) for _ in range(2)]
    assert found[0] == found[1]
    after = one.state()
    assert all(np.array_equal(array, after.model[key]) for key, array in before.model.items())
    assert all(np.array_equal(array, after.momentum[key]) for key, array in before.momentum.items())
    assert one.evaluate(EVALUATED) == other.evaluate(EVALUATED) != found[0]
    one.evaluate(EVALUATED, norm(one, 3))
    for step in (1, 2):
        each = dataclasses.replace(plan(3), step=step, samples_seen=24 * step)
        for backend in (one, other):
            backend.train_step(each, list(micro_batches(3, seed=step)))
        assert one.losses(each) == other.losses(each)
    assert one.fingerprint() == other.fingerprint()
    one, other = one.state(), other.state()
    assert all(np.array_equal(array, other.model[key]) for key, array in one.model.items())


@both
def test_layers_that_draw_draw_anew_for_each_micro_batch(framework):
    """The same images twice are the same to a network, but for one with dropout."""
    [images] = micro_batches(1)
    for name, draws in (("mine:net", False), ("mine:remembering", True)):
        backend = made_own(framework, name)
        once = backend.evaluate(EVALUATED, NormBatches(1, [images])).loss
        twice = backend.evaluate(EVALUATED, NormBatches(2, [images, images])).loss
        assert (abs(twice - once) > 1e-6) == draws and twice == pytest.approx(once, rel=0.2)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@both
def test_other_precisions(framework, precision):
    """Within their own roundings of what float64 makes of it."""
    expected = trained(framework)
    expected = expected.evaluate(EVALUATED, norm(expected, 3)).loss
    backend = made(framework, precision)
    backend.train_step(plan(5, rate=0.05), list(micro_batches(5)))
    before = backend.fingerprint()
    found = backend.evaluate(EVALUATED, norm(backend, 3))
    assert found.loss == pytest.approx(expected, rel=1e-4 if precision == "float32" else 5e-2)
    assert backend.fingerprint() == before


def test_a_layer_that_stays_as_in_evaluation_keeps_its_own():
    """To the bit, though three times 0.1 divided by three is not 0.1."""
    backend, other = made_own("torch", "mine:frozen_norm"), made_own("torch", "mine:frozen_norm")
    state = backend.state()
    state.model["0.running_mean"][:] = 0.1
    for each in (backend, other):
        each.load_state(state)
    expected = backend.evaluate(EVALUATED)
    assert backend.evaluate(EVALUATED, norm(backend, 3)).loss == pytest.approx(expected.loss, rel=1e-12)
    for each in (backend, other):
        each.train_step(plan(2), list(micro_batches(2)))
    assert backend.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("framework", ["keras"])
def test_beside_a_frozen_layer_only_the_others_are_recomputed(framework):
    backend, other = trained(framework, "mine:half_frozen"), trained(framework, "mine:half_frozen")
    assert backend.evaluate(EVALUATED, norm(backend, 2)) != backend.evaluate(EVALUATED)
    for each in (backend, other):
        each.train_step(dataclasses.replace(plan(2), step=1), list(micro_batches(2)))
    assert backend.fingerprint() == other.fingerprint()


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        ("torch", "mine:no_norm"),
        ("keras", "mine:no_norm"),
        ("torch", "mine:statistics_of_batches_only"),
        ("keras", "mine:frozen_norm"),
    ],
)
def test_a_network_that_has_none_is_refused(framework, name):
    wanted = dataclasses.replace(config(framework), model=ModelSettings(name, 4))
    backends.load(framework)(wanted)
    wanted = dataclasses.replace(wanted, evaluate=EvaluateSettings(precise_bn=64))
    with pytest.raises(SettingsError, match=f"evaluate.precise_bn: 64; {name} has no batch normalisation whose"):
        backends.load(framework)(wanted)


@pytest.mark.parametrize("workers", [2])
@both
def test_where_a_worker_is_short_of_one_nothing_is_evaluated(framework, workers):
    """All workers know at once, and come to the same meetings; the next evaluation is a whole one."""
    backend = trained(framework)
    before = backend.pulse
    evaluated = iter(EVALUATED)
    assert backend.evaluate(evaluated, norm(backend, 4, missing=backend.rank)) == Totals(0.0, 0, 0, 0)
    assert len(list(evaluated)) == 2
    assert backend.pulse.meetings - before.meetings == 2
    assert backend.pulse.batches - before.batches == 2 - backend.rank
    assert backend.evaluate(EVALUATED, norm(backend, 4)).count == 20
    assert backend.pulse.batches - before.batches == 2 - backend.rank + 4


@both
def test_the_answers_to_each_batch(framework):
    """Best first; as many right ones as in the totals."""
    backend, answers = trained(framework), []
    totals = backend.evaluate(EVALUATED, answered=answers.append)
    assert [answer.shape for answer in answers] == [(5, 4), (5, 4)]
    assert all(sorted(row) == [0, 1, 2, 3] for answer in answers for row in answer.tolist())
    labels = [batch.labels for batch in EVALUATED]
    assert sum((a[:, 0] == b).sum() for a, b in zip(answers, labels, strict=True)) == totals.top1
    state = backend.state()
    state.model["fc.weight"][:], state.model["fc.bias"][:] = 0, [1, 3, 2, 4]
    backend.load_state(state)
    backend.evaluate(EVALUATED[:1], None, answers.append)
    assert answers[2].tolist() == [[3, 1, 2, 0]] * 5
