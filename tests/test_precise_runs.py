"""Whole runs whose evaluations recompute batch normalisation's statistics: nothing but these differs."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import on_workers
from runs import metrics, train, weights

from hvd_imagenet import cli
from hvd_imagenet.evaluation import totals

SAMPLES = 18  # 5 micro-batches of 4, of 20 samples
ON = [("torch", 1), ("torch", 2), ("torch", 3), ("keras", 1), ("keras", 2)]
FIRST = os.environ.get("HOROVOD_RANK", "0") == "0"


def options(framework, samples=SAMPLES):
    return ["--framework", framework, "--evaluate.precise_bn", str(samples)]


@pytest.mark.parametrize(("framework", "workers"), ON)
def test_a_run(framework, workers, recipe, image_folder, shared):
    run = shared / f"precise-{framework}-{workers}"
    if not (run / "result.json").exists():
        assert train(recipe, image_folder, run, *options(framework)) == 0


@pytest.fixture
def made(shared, session_folder):
    """The folder of one of these runs, made where it is not there."""

    def made(framework, workers):
        run = shared / f"precise-{framework}-{workers}"
        if not (run / "result.json").exists():
            on_workers(workers, f"{__file__}::test_a_run[{framework}-{workers}]", session_folder)
        return run

    return made


def losses(run, kind="eval"):
    return [event["loss"] for event in metrics(run, kind)]


@pytest.mark.parametrize(("framework", "many"), ON[1:])
def test_the_evaluations_are_the_same_on_any_number_of_workers_and_in_either_framework(framework, many, made):
    one, other = made("torch", 1), made(framework, many)
    assert losses(other) == pytest.approx(losses(one), rel=1e-9) and len(losses(one)) == 3
    assert [event["top1"] for event in metrics(other, "eval")] == [event["top1"] for event in metrics(one, "eval")]


def test_steps_and_weights_are_those_of_a_run_without(made, walks):
    """Bit for bit."""
    precise, plain = made("torch", 1), walks / "on-1"
    assert losses(precise, "step") == losses(plain, "step") and len(losses(plain, "step")) == 8
    for step in (3, 5, 8):
        ones, others = weights(precise, step), weights(plain, step)
        for kind in ones:
            assert all(np.array_equal(ones[kind][name], others[kind][name]) for name in others[kind])
    assert all(abs(one - other) > 1e-3 for one, other in zip(losses(precise), losses(plain), strict=True))


@pytest.mark.parametrize("workers", [3])
def test_evaluating_a_run_that_did_without(workers, made, walks, tmp_path):
    """With as many samples it is what the run would have found; and there may be more workers than micro-batches."""
    run = Path(shutil.copytree(walks / "on-1", tmp_path / "run"))
    found = []
    for samples in (SAMPLES, 5, 8, 9):
        assert cli.main(["evaluate", "--run", str(run), "--evaluate.precise_bn", str(samples)]) == 0
        if FIRST:
            said = json.loads((run / "evaluation.json").read_text())
            assert (said["precise_bn"], said["count"]) == (samples, 23)
            found.append(said["loss"])
    if FIRST:
        assert found[0] == pytest.approx(losses(made("torch", 1))[-1], rel=1e-9)
        assert found[1] == found[2] != found[3]  # two micro-batches, and three


def test_it_is_asked_to_stop_on_the_way(made, recipe, image_folder, tmp_path, monkeypatch):
    """Everything is saved, and the evaluation comes again."""
    begin = totals.first_batches

    def signalled(wanted):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        return begin(wanted)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(totals, "first_batches", signalled)
        assert train(recipe, image_folder, run, *options("torch")) == 75
    assert losses(run) == [] and len(losses(run, "step")) == 3
    assert cli.main(["train", "--run", str(run), "--resume"]) == 0
    assert losses(run) == losses(made("torch", 1))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (0, "evaluate.precise_bn: 0; give a number of training images above 0, or null"),
        (51, "images has 50 training images: give at most as many, or null"),
        (1.5, "evaluate.precise_bn: 1.5; give a whole number, or null"),
    ],
)
def test_numbers_that_make_no_sense(samples, message, recipe, image_folder, tmp_path, capsys):
    assert train(recipe, image_folder, tmp_path / "run", *options("torch", samples)) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_run_at_a_url_in_a_blocked_order(server, packed, cache, recipe, tmp_path):
    """In a cache that has no room for all shards; the same bits as from a folder of this machine."""
    blocked = ["--stream.shuffle", "blocked", "--stream.window", "1", "--epochs", "1", *options("torch", 20)]
    remote = ["--data.cache_dir", str(cache.folder), "--data.cache_gib", "0.01"]
    assert train(recipe, server.url, tmp_path / "remote", *blocked, *remote) == 0
    assert train(recipe, packed, tmp_path / "local", *blocked) == 0
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    assert losses(tmp_path / "remote", "step") == losses(tmp_path / "local", "step")
    assert cli.main(["evaluate", "--run", str(tmp_path / "remote")]) == 0
    said = json.loads((tmp_path / "remote" / "evaluation.json").read_text())
    assert said["precise_bn"] == 20 and said["loss"] == pytest.approx(losses(tmp_path / "remote")[-1], rel=1e-9)
