"""The same run on 1, 2, 3 and 4 workers, where every share is uneven: a batch that grows from 7 to 11 micro-batches.

In PyTorch from small shards in a blocked order, in Keras from a plain folder in a global one.
"""

import json
import os

import horovod.torch as hvd
import pytest
from conftest import make_image_folder, on_workers
from data_sets import packed_folder
from runs import closest, metrics, train, weights

from hvd_imagenet.torch.norm import StepStatistics

STEPS = 40
MANY = [("torch", 2), ("torch", 3), ("keras", 2)]  # to be compared with one
MANY += [pytest.param(*more, marks=pytest.mark.long) for more in (("torch", 4), ("keras", 3))]
# 7 micro-batches of 16 for the first epoch of 2,240 images, 20 steps of 112; then 11. 20 * 112 + 20 * 176 = 5,760.
RECIPE = """
model: {name: resnet8, classes: 2}
data: {image_size: 8}
batch: {global_size: {0: 112, 1: 176}, micro_size: 16}
stream: {window: 5}
lr: {reference: 0.05, reference_batch: 64, warmup: {kind: gradual, epochs: 0.5}, schedule: {milestones: [2]}}
optimizer: {momentum: 0.9, nesterov: true}
epochs: 2.5714
seed: 3
precision: float64
log: {every_steps: 1}
evaluate: {every_epochs: 1}
"""


@pytest.fixture
def growing(tmp_path):
    (tmp_path / "growing.yaml").write_text(RECIPE)
    return str(tmp_path / "growing.yaml")


@pytest.fixture(scope="session")
def many_images(session_folder):
    folder = session_folder / "many"
    return folder if folder.exists() else make_image_folder(folder, 2240, 31, size=(10, 9))


@pytest.fixture(scope="session")
def orders(session_folder, many_images):
    """The options of each framework's runs. The shards are 93 of 24 images and one of 8: 18 windows of 5, one of 4."""
    shards = packed_folder(many_images, session_folder / "many-shards", shard_bytes=17_250)
    return {
        "torch": ["--data.path", str(shards), "--stream.shuffle", "blocked"],
        "keras": ["--data.path", str(many_images), "--stream.shuffle", "global"],
    }


@pytest.fixture
def growing_run(shared, orders, session_folder):
    """The folder of a run in a framework on a number of workers, made where it is not there."""

    def growing_run(framework, workers):
        run = shared / f"growing-{framework}-{workers}"
        if not run.exists():
            on_workers(workers, f"{__file__}::test_a_growing_run[{framework}-{workers}]", session_folder)
        return run

    return growing_run


@pytest.mark.parametrize(("framework", "workers"), [("torch", 1), ("keras", 1), *MANY])
def test_a_growing_run(framework, workers, growing, many_images, orders, shared):
    run = shared / f"growing-{framework}-{workers}"
    assert train(growing, many_images, run, "--framework", framework, *orders[framework]) == 0
    if os.environ["HOROVOD_RANK"] == "0":
        assert [event["global_batch"] for event in metrics(run, "step")] == [112] * 20 + [176] * 20
        assert json.loads((run / "result.json").read_text())["workers"] == workers


@pytest.mark.parametrize(("framework", "many"), MANY)
def test_losses_weights_and_running_statistics_agree(framework, many, growing_run):
    one, other = growing_run(framework, 1), growing_run(framework, many)
    for kind in ("step", "eval"):
        losses = [[event["loss"] for event in metrics(run, kind)] for run in (one, other)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-9)
        assert len(losses[0]) == {"step": STEPS, "eval": 3}[kind]
    ones, others = weights(one, STEPS), weights(other, STEPS)
    assert sum("running" in name for name in ones["model"]) == 18
    for kind in ones:
        for name in ones[kind]:
            assert closest({name: ones[kind][name]}, {name: others[kind][name]}) < 1e-9, name


@pytest.mark.parametrize("workers", [2])
def test_averaging_the_workers_own_running_statistics_would_not_do(
    workers, growing, many_images, orders, growing_run, monkeypatch
):
    """Running statistics of each worker's own micro-batches, averaged before evaluation: far from 1e-9."""
    adding, using = StepStatistics.add, StepStatistics.use_running
    added = []

    def update(self, _, micro_batches):
        self.running += self._momentum * (self.sums / len(added) - self.running)
        added.clear()

    def average(self):
        self.running.copy_(hvd.allreduce(self.running, op=hvd.Average))
        using(self)

    monkeypatch.setattr(StepStatistics, "add", lambda self, count: (adding(self, count), added.append(1)))
    monkeypatch.setattr(StepStatistics, "update", update)
    monkeypatch.setattr(StepStatistics, "use_running", average)
    right = growing_run("torch", 2)
    run = right.with_name("averaged")
    assert train(growing, many_images, run, "--faults.fingerprint_every_steps", "null", *orders["torch"]) == 0
    losses = [[event["loss"] for event in metrics(run.with_name(name), "eval")] for name in (right.name, run.name)]
    assert max(abs(one - other) / one for one, other in zip(*losses, strict=True)) > 1e-5
    steps = [[event["loss"] for event in metrics(run.with_name(name), "step")] for name in (right.name, run.name)]
    assert steps[1] == pytest.approx(steps[0], rel=1e-9)  # training itself does not see them
