"""The step bench: its contestants train alike, its figures are what was measured, and plan reads them."""

import importlib
import json
from dataclasses import replace

import numpy as np
import psutil
import pytest

from hvd_imagenet import cli
from hvd_imagenet.bench import step, training
from hvd_imagenet.bench.steps import MATRIX, Task, made_up
from hvd_imagenet.config import Config, DataSettings, ModelSettings
from hvd_imagenet.planner import measured
from hvd_imagenet.policy import BatchSettings

SMALL = ["--model.name", "resnet8", "--model.classes", "2", "--data.image_size", "28", "--batch.micro_size", "16"]
QUICK = ["--rounds", "2", "--seconds", "0.1"]


def small(framework, precision="float32"):
    return Config(
        framework=framework,
        model=ModelSettings("resnet8", 4),
        data=DataSettings(image_size=28),
        batch=BatchSettings(8, 8),
        precision=precision,
    )


def task(config, folder, micro_batches=1, **more):
    return Task(training.saved(training.of_steps(config, micro_batches), folder / "config.yaml"), micro_batches, **more)


def work(name, of):
    return importlib.import_module(f"hvd_imagenet.bench.steps.{name}").work(of)


def test_a_share_of_the_roofline():
    """100 images of 2 GFLOP, of 400 GFLOP/s: a half; 300 of 1,200: a half, too."""
    speeds = {"ours": [100.0, 300.0], "loop": [200.0, 300.0], "matrix": [400.0, 1200.0]}
    found = step.results(speeds, 32, 1, 2 * 10**9)
    ours, loop, matrix = (found["contestants"][name] for name in ("ours", "loop", "matrix"))
    assert ours["roofline_share"]["values"] == [0.5, 0.5] and loop["roofline_share"]["values"] == [1, 0.5]
    assert ours["ours_to_it"]["values"] == [1, 1] and loop["ours_to_it"]["values"] == [0.5, 1]
    assert matrix["gflops"]["median"] == 800 and "images_per_second" not in matrix
    assert found["images_per_second"]["median"] == 200
    assert "roofline_share" not in step.results(speeds, 32, 1, None)["contestants"]["ours"]


def test_operations_of_an_image():
    """ResNet-50: 4.09 billion multiply-adds forward, two operations each, three times as much with the backward."""
    assert training.flops_per_image(Config()) == pytest.approx(6 * 4.09e9, rel=0.002)
    assert training.flops_per_image(Config(model=ModelSettings("my.models:net"))) is None


def test_matrix_products(tmp_path):
    """2 n^3 operations: 17.2 GFLOP of 2,048."""
    products = work("torch_matrix", task(small("torch", "bf16"), tmp_path))
    assert products.amount == pytest.approx(17.18, abs=0.01)
    products.take(1)
    left, right = (factor.float() for factor in products._factors)
    assert products._factors.dtype.itemsize == 2 and products._factors.shape[1:] == (MATRIX["cpu"],) * 2
    assert (products._product.float() - left @ right).abs().max() < 1.5  # of sums of 2,048 products, rounded to 8 bits


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_loop_by_hand_trains_as_the_trainer_does(framework, tmp_path):
    """Float64, ten steps on one batch: the weights are the same, momentum and decay in their groups included.

    Keras's own decay is not coupled: the difference is left to it.
    """
    ours, loop = (work(name, task(small(framework, "float64"), tmp_path)) for name in ("ours", f"{framework}_loop"))
    before = ours._backend.state().model
    for one in (ours, loop):
        one.take(10)
        one.finish()
        assert one.amount == 8 and one.size == 1
    after = ours._backend.state().model
    if framework == "torch":
        found = {name: parameter.detach().numpy() for name, parameter in loop._model.named_parameters()}
    else:
        names = importlib.import_module("hvd_imagenet.keras.names")
        found = {name: parameter.numpy() for name, parameter in names.trainable_parameters(loop._model).items()}
    for name, value in found.items():
        moved = np.abs(after[name] - before[name]).max()
        assert np.abs(value - after[name]).max() <= (1e-9 if framework == "torch" else 5e-6 + 0.01 * moved), name


def test_a_timed_step_takes_the_same_and_tells_its_parts(tmp_path):
    plain, timed = (work("ours", task(small("torch", "float64"), tmp_path, 2, timed=one)) for one in (False, True))
    for one in (plain, timed):
        one.take(3)
        one.finish()
    states = plain._backend.state().model, timed._backend.state().model
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
    assert plain.told() == {} and plain.amount == 16
    timed.told()
    timed.take(5)
    timed.finish()
    told = timed.told()
    assert list(told) == ["data", "communication", "forward", "backward", "update"]
    assert told["communication"] == 0 and min(told["forward"], told["backward"], told["update"]) > 0
    assert told["backward"] > told["update"]


def test_forwards_that_are_tried_at_the_start_are_no_part_of_a_step(tmp_path):
    config = replace(small("torch"), batch=BatchSettings(16, 8, "auto"))
    timed = work("ours", task(config, tmp_path, 2, timed=True))
    assert timed._backend._forwards == []
    timed.take(2)
    timed.finish()
    assert timed.told()["forward"] > 0


def test_made_up_images():
    batch = made_up(Config(model=ModelSettings("resnet8", 5), data=DataSettings(image_size=40)))
    assert batch.images.shape == (32, 40, 40, 3) and batch.images.dtype == np.float32
    assert abs(batch.images.mean()) < 0.02 and abs(batch.images.std() - 1) < 0.02
    assert batch.labels.shape == (32,) and batch.labels.dtype == np.int64 and set(batch.labels) == set(range(5))


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_command(framework, image_folder, tmp_path, capsys):
    before = psutil.Process().children()
    options = [*SMALL, "--framework", framework, "--data.path", str(image_folder), *QUICK]
    assert cli.main(["bench", "step", *options, "--json", str(tmp_path / "step.json")]) == 0
    said = capsys.readouterr().out
    assert "resnet8, 28 x 28, micro-batches of 16, float32" in said and "a loop by hand" in said
    report = json.loads((tmp_path / "step.json").read_text())
    found = report["results"]["contestants"]
    assert list(found) == ["ours", "fed", "loop", "matrix"] and found["matrix"]["gflops"]["median"] > 0
    assert all(len(found[name]["images_per_second"]["values"]) == 2 for name in ("ours", "fed", "loop"))
    assert report["settings"]["rounds"] == 2 and {"horovod", "numpy"} <= report["versions"].keys()
    steps = measured.read([str(tmp_path / "step.json")]).steps
    assert (steps.micro_size, steps.micro_batches, steps.workers, steps.nodes) == (16, 1, 1, 1)
    assert steps.seconds == pytest.approx(16 / found["ours"]["images_per_second"]["median"])
    assert psutil.Process().children() == before


def test_several_micro_batches_in_a_forward_beside_one_by_one(tmp_path):
    assert (
        cli.main(["bench", "step", *SMALL, *QUICK, "--batch.forward_size", "32", "--json", f"{tmp_path}/step.json"])
        == 0
    )
    results = json.loads((tmp_path / "step.json").read_text())["results"]
    assert list(results["contestants"]) == ["ours", "separate", "loop", "matrix"] and results["micro_batches"] == 2


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_a_loop_of_several_micro_batches_takes_one_step(framework, tmp_path):
    """Twice the same micro-batch: the mean gradient of both is that of one."""
    loops = [work(f"{framework}_loop", task(small(framework, "float64"), tmp_path, count)) for count in (1, 2)]
    for loop in loops:
        loop.take(2)
        loop.finish()
    assert [loop.amount for loop in loops] == [8, 16]
    one, other = (
        [p.value.numpy() if framework == "keras" else p.detach().numpy() for p in trained(loop)] for loop in loops
    )
    assert all(np.abs(a - b).max() < 1e-12 for a, b in zip(one, other, strict=True))


def trained(loop):
    return loop._model.trainable_variables if hasattr(loop._model, "trainable_variables") else loop._model.parameters()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch.forward_size", "auto"], "batch.forward_size: auto; give the number that is to be measured"),
        (["--against", "lightning"], "--against: lightning; known: loop"),
        (["--rounds", "0"], "--rounds: 0; give a number above 0"),
        (["--starts", "0"], "--starts: 0; give a number above 0"),
        (["--starts", "3", "--rounds", "2"], "--starts: 3; and --rounds 2: give a round for each start"),
        (["--secnds", "1"], "--secnds: unknown option; did you mean --seconds?"),
        (["--json", "/nowhere/bench.json"], "--json: /nowhere/bench.json; its folder does not exist"),
        (["--precision", "fp16"], "precision: fp16; give one of float32, bf16, float64"),
        (["--model.classes", "3"], "has 2 classes, but model.classes is 3"),
    ],
)
def test_bad_options(options, said, image_folder, capsys):
    assert cli.main(["bench", "step", *SMALL, "--data.path", str(image_folder), *options]) in (2, 3)
    assert said in capsys.readouterr().err


def test_without_the_framework(monkeypatch, capsys):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    assert cli.main(["bench", "step", "--framework", "keras"]) == 2
    assert "framework: keras; is not installed; run: bash launch/install.sh" in capsys.readouterr().err


def test_a_contestant_that_fails_is_named(monkeypatch, capsys):
    monkeypatch.setitem(step.ENTRIES, "loop", step.Entry("a loop", "no_such_loop"))
    assert cli.main(["bench", "step", *SMALL, *QUICK]) == 1
    assert "bench step: loop: ModuleNotFoundError: No module named" in capsys.readouterr().err
