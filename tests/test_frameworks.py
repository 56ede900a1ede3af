"""PyTorch and Keras, step by step: the same recipe gives the same run, and either goes on with the other's."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import make_image_folder
from runs import closest, metrics, train, weights
from steps import made, micro_batches, plan

from hvd_imagenet import cli

FRAMEWORKS = ("torch", "keras")
# 4, then 6 micro-batches of 8, on 480 images: 15 steps for the first epoch, 10 for each other: 65 in all.
RECIPE = """
model: {name: resnet8, classes: 2}
data: {image_size: 8}
batch: {global_size: {0: 32, 1: 48}, micro_size: 8}
lr: {reference: 0.05, reference_batch: 16, warmup: {kind: gradual, epochs: 2}, schedule: {milestones: [4]}}
optimizer: {momentum: 0.9, nesterov: true, weight_decay: 1.0e-4}
epochs: 6
seed: 3
precision: float64
log: {every_steps: 1}
evaluate: {every_epochs: 2}
"""
STEPS = 65


@pytest.fixture(scope="session")
def many_images(session_folder):
    folder = session_folder / "hundreds"
    return folder if folder.exists() else make_image_folder(folder, 480, 31, size=(10, 9))


@pytest.fixture(scope="session")
def runs(session_folder, many_images):
    """A run in each framework."""
    folder = session_folder / "frameworks"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    for framework in FRAMEWORKS:
        assert train(str(folder / "recipe.yaml"), many_images, folder / framework, "--framework", framework) == 0
    return folder


def losses(run, kind="step"):
    return [event["loss"] for event in metrics(run, kind)]


def test_the_same_recipe_takes_the_same_steps(runs):
    torch, keras = (runs / framework for framework in FRAMEWORKS)
    assert len(losses(torch)) == STEPS and losses(torch)[-1] < 0.5 * losses(torch)[0]
    for kind in ("step", "eval"):
        assert losses(keras, kind) == pytest.approx(losses(torch, kind), rel=1e-9)
    ones, others = weights(torch, STEPS), weights(keras, STEPS)
    assert sum("running" in name for name in ones["model"]) == 18
    for kind in ones:
        for name in ones[kind]:
            assert closest({name: ones[kind][name]}, {name: others[kind][name]}) < 1e-9, name
    results = [json.loads((runs / framework / "result.json").read_text()) for framework in FRAMEWORKS]
    assert [result["framework"] for result in results] == list(FRAMEWORKS)
    assert results[0]["val_top1"] == results[1]["val_top1"]


@pytest.mark.parametrize("other", FRAMEWORKS)
def test_a_checkpoint_is_evaluated_in_the_other_framework(runs, other, capsys):
    said, written = [], []
    for framework in FRAMEWORKS:
        assert cli.main(["evaluate", "--run", str(runs / other), "--framework", framework]) == 0
        said.append(capsys.readouterr().out)
        written.append(json.loads((runs / other / "evaluation.json").read_text()))
    assert said[0] == said[1] and said[0].startswith(f"step {STEPS}  loss ")
    assert [one.pop("loss") for one in written] == pytest.approx(2 * [losses(runs / other, "eval")[-1]], rel=1e-9)
    assert written[0] == written[1] and len(written[0]["classes"]) == 2


@pytest.mark.parametrize(("first", "then"), [FRAMEWORKS, FRAMEWORKS[::-1]])
def test_a_run_goes_on_in_the_other_framework(runs, many_images, tmp_path, first, then):
    """Momentum, batch normalisation and the place in the stream included."""
    recipe, run = str(runs / "recipe.yaml"), tmp_path / "run"
    assert train(recipe, many_images, run, "--framework", first, "--epochs", "2") == 0
    done = len(losses(run))
    assert cli.main(["train", "--run", str(run), "--resume", "--framework", then, "--epochs", "3"]) == 0
    assert losses(run) == pytest.approx(losses(runs / "torch")[: done + 10], rel=1e-9)


def weights_by_step(framework, contiguous=False):
    """All weights after each of 30 steps in float32."""
    backend, found = made(framework, "float32"), []
    if contiguous:
        backend._model.to(memory_format=torch.contiguous_format)
        backend._model.register_forward_pre_hook(lambda _, images: (images[0].contiguous(),))
    for step in range(30):
        each = dataclasses.replace(plan(3, rate=0.02 + 0.009 * min(step, 20)), step=step)
        backend.train_step(each, list(micro_batches(3, seed=step % 8)))
        model = backend.state().model
        found.append(np.concatenate([model[name].ravel() for name in sorted(model)]))
    return found


def test_in_float32_the_frameworks_part_no_faster_than_two_memory_formats_of_pytorch():
    """Before the first jump: where a rounding puts a value on the other side of a ReLU, any two runs part for good."""
    ours, other_format, other_framework = (
        weights_by_step("torch"),
        weights_by_step("torch", True),
        weights_by_step("keras"),
    )
    distances = [
        [np.linalg.norm(other - one) for one, other in zip(ours, others, strict=True)]
        for others in (other_framework, other_format)
    ]
    ratios = [framework / layout for framework, layout in zip(*distances, strict=True)]
    assert all(distances[1]) and max(ratios) <= 3, ratios


def test_in_float32_the_first_steps_are_close(runs, many_images, tmp_path):
    for framework in FRAMEWORKS:
        options = ["--framework", framework, "--precision", "float32", "--epochs", "0.3"]
        assert train(str(runs / "recipe.yaml"), many_images, tmp_path / framework, *options) == 0
    ours, others = (losses(tmp_path / framework) for framework in FRAMEWORKS)
    assert len(ours) == 5 and others == pytest.approx(ours, rel=1e-5)
