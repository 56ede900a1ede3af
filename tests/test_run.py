"""Whole runs of the real command on small images: the same walk on 1, 2 and 3 workers, and in parts."""

import hashlib
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import LAUNCH_SECONDS
from jobs import outside
from runs import EPOCHS, GLOBAL, MICRO, SAMPLES, closest, metrics, train, weights

from hvd_imagenet import checkpoint, cli, settings
from hvd_imagenet.data.decoders import OnHost
from hvd_imagenet.data.store import open_store
from hvd_imagenet.stream import share
from hvd_imagenet.stream.augment import random_resized_crop
from hvd_imagenet.stream.order import permutation
from hvd_imagenet.torch.backend import Backend
from hvd_imagenet.totals import Norms


@pytest.fixture
def taken(monkeypatch, image_folder):
    """What DALI takes, sample by sample: sample number (known by its bytes), window, mirror, label."""
    store = open_store(image_folder, "train")
    numbers = {hashlib.sha256(data).digest(): n for n, data in enumerate(store.read(np.arange(len(store))))}
    samples, original = [], OnHost.inputs

    def inputs(request, encoded, labels):
        given = original(request, encoded, labels)
        for data, anchor, shape, mirror, label in zip(*given, request.windows.mirror, labels, strict=True):
            number = numbers.get(hashlib.sha256(data).digest())
            if number is not None:  # none of the validation images
                samples.append([number, *anchor.tolist(), *shape.tolist(), int(mirror), int(label)])
        return given

    monkeypatch.setattr(OnHost, "inputs", staticmethod(inputs))
    return samples


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_run(workers, recipe, image_folder, shared, taken):
    run = shared / f"on-{workers}"
    if (run / "result.json").exists():
        return  # made by this test, for those of another file
    assert train(recipe, image_folder, run) == 0
    rank = int(os.environ["HOROVOD_RANK"])
    (shared / f"taken-{workers}-{rank}.json").write_text(json.dumps(taken))


@pytest.mark.parametrize("workers", [2])
def test_a_run_in_two_parts(workers, recipe, image_folder, shared):
    run = shared / "resumed"
    if (run / "result.json").exists():
        return
    assert train(recipe, image_folder, run, "--epochs", "2") == 0
    assert cli.main(["train", "--run", str(run), "--resume", "--epochs", "3"]) == 0


def united(shared, workers):
    """The workers' samples put back into the order of the stream, by what each was due of each step."""
    parts = [iter(json.loads((shared / f"taken-{workers}-{rank}.json").read_text())) for rank in range(workers)]
    steps, stream = -(-EPOCHS * SAMPLES // GLOBAL), []
    for _ in range(steps):
        for rank, part in enumerate(parts):
            start, stop = share(GLOBAL // MICRO, rank, workers)
            stream += [next(part) for _ in range((stop - start) * MICRO)]
    assert not [left for part in parts for left in part]
    return stream


def test_dali_takes_the_same_samples_windows_and_flips_on_any_number_of_workers(walks, image_folder):
    streams = {workers: united(walks, workers) for workers in (1, 2, 3)}
    assert len(streams[1]) == 160
    assert streams[1] == streams[2] == streams[3]
    numbers = [sample[0] for sample in streams[1]]
    store = open_store(image_folder, "train")
    for epoch in range(EPOCHS):
        part = slice(epoch * SAMPLES, (epoch + 1) * SAMPLES)
        assert sorted(numbers[part]) == list(range(SAMPLES))
        order = permutation(3, epoch, SAMPLES)
        windows = random_resized_crop(3, epoch, 0, store.sizes(order))
        expected = np.column_stack([order, windows.anchor, windows.shape, windows.mirror, store.labels[order]])
        assert streams[1][part] == expected.tolist()


@pytest.mark.parametrize("workers", [2])
def test_gradients_in_sixteen_bits_take_nearly_the_same_steps(workers, recipe, image_folder, walks, shared):
    run = shared / "in-16-bits"
    assert train(recipe, image_folder, run, "--epochs", "1", "--allreduce.compression", "fp16") == 0
    pairs = zip(metrics(run, "step"), metrics(walks / "on-2", "step"), strict=False)
    off = [abs(one["loss"] / other["loss"] - 1) for one, other in pairs]
    assert len(off) == 3 and off[0] < 1e-9 and 1e-9 < max(off) < 2e-3, off


def test_the_workers_take_the_same_steps(walks):
    one = walks / "on-1"
    for workers in (2, 3):
        other = walks / f"on-{workers}"
        losses = [[event["loss"] for event in metrics(run, "step")] for run in (one, other)]
        assert len(losses[0]) == 8
        assert losses[1] == pytest.approx(losses[0], rel=1e-9)
        for key in ("top1", "top5", "lr", "global_batch"):
            assert [e[key] for e in metrics(other, "step")] == [e[key] for e in metrics(one, "step")]
        for key in ("grad_norm", "weight_norm"):
            norms = [[event[key] for event in metrics(run, "step")] for run in (one, other)]
            assert norms[1] == pytest.approx(norms[0], rel=1e-9)
        for kind in ("model", "optimizer"):
            assert closest(weights(one, 8)[kind], weights(other, 8)[kind]) < 1e-9
        evaluations = [[(e["top1"], e["top5"], e["count"]) for e in metrics(run, "eval")] for run in (one, other)]
        assert evaluations[0] == evaluations[1]


def test_evaluations_tell_of_all_samples_since_the_one_before(walks):
    for run in (walks / "on-1", walks / "on-3", walks / "resumed"):
        steps, start = metrics(run, "step"), 0
        for event in metrics(run, "eval"):
            since = [step for step in steps if start < step["step"] <= event["step"]]
            samples = sum(step["global_batch"] for step in since)
            for key in ("loss", "top1", "top5"):
                mean = sum(step[key] * step["global_batch"] for step in since) / samples
                assert event[f"train_{key}"] == pytest.approx(mean, rel=1e-12), (run, key)
            start = event["step"]


def test_where_the_time_goes_adds_up_and_the_slowest_worker_is_named(walks):
    for workers in (1, 2, 3):
        first, second, *others = metrics(walks / f"on-{workers}", "step")
        assert not [key for key in (*first, *second) if key.endswith("_seconds")]  # of the first step, nothing is told
        for before, event in pairwise([second, *others]):
            parts = [event[f"{part}_seconds"] for part in ("data", "compute", "communication")]
            assert min(parts) >= 0 < sum(parts)
            assert ("slowest_rank" in event) == (workers > 1)
            if workers > 1:
                assert event["slowest_rank"] in range(workers)
                assert event["slowest_host"] == socket.gethostname()
                assert event["slowest_seconds"] >= event["median_seconds"] > 0
            else:
                assert event["communication_seconds"] == 0
                lap = before["global_batch"] / before["images_per_second"]  # of the step that the parts are of
                assert lap / 2 < sum(parts) < lap * 1.001


def test_norms_that_are_not_finite_are_left_out(recipe, image_folder, tmp_path, monkeypatch):
    take = Backend.take_totals

    def overflowing(backend, wait):
        taken = take(backend, wait)
        return [(of, replace(totals, norms=Norms(math.inf, 2.0)) if of.step == 1 else totals) for of, totals in taken]

    monkeypatch.setattr(Backend, "take_totals", overflowing)
    assert train(recipe, image_folder, tmp_path / "run", "--epochs", "1") == 0
    assert ["grad_norm" in event for event in metrics(tmp_path / "run", "step")] == [True, False, True]
    assert all("weight_norm" in event for event in metrics(tmp_path / "run", "step"))


def test_a_run_leaves_what_the_design_says(walks):
    for workers in (1, 2, 3):
        run = walks / f"on-{workers}"
        assert sorted(f.name for f in run.iterdir()) == [
            "checkpoints",
            "config.yaml",
            "lock",
            "log.txt",
            "metrics.jsonl",
            "result.json",
            "status.json",
            "tensorboard",
        ]
        status = json.loads((run / "status.json").read_text())
        assert (status["status"], status["exit_code"], len(status["workers"])) == ("done", 0, workers)
        result = json.loads((run / "result.json").read_text())
        evaluations = metrics(run, "eval")
        # Epochs of 50 samples end in steps 3, 5 and 8 of 20: after 60, 100 and 160 samples.
        assert [(e["step"], e["epoch"], e["count"]) for e in evaluations] == [(3, 1.2, 23), (5, 2.0, 23), (8, 3.2, 23)]
        top1 = [e["top1"] for e in evaluations]
        assert result["val_top1"] == top1[-1]
        assert result["best_top1"] == max(top1)
        assert result["median5_top1"] == sorted(top1)[1]
        expected = {
            "epochs": 3.2,
            "steps": 8,
            "samples_seen": 160,
            "workers": workers,
            "framework": "torch",
            "restarts": [],
        }
        assert result.items() >= expected.items()
        assert result["images_per_second"] > 0 and result["wall_seconds"] > 0
        assert sorted(f.name for f in (run / "checkpoints").iterdir()) == [f"step-0000000{step}" for step in (3, 5, 8)]
        resolved = settings.load(run / "config.yaml")
        assert (resolved.seed, resolved.data.train_samples) == (3, 50)
        assert os.path.isabs(resolved.data.path)


def test_the_logged_learning_rates_are_the_plans(walks):
    logged = [(e["step"], e["samples_seen"], e["lr"]) for e in metrics(walks / "on-2", "step")]
    # Target 0.05 * 20 / 8 = 0.125; warmup over 50 samples: 0.05 + 0.075 * s / 50; divided from 100 samples on.
    rates = [0.05, 0.08, 0.11, 0.125, 0.125, 0.0125, 0.0125, 0.0125]
    assert [(step, seen) for step, seen, _ in logged] == [(k, 20 * k) for k in range(1, 9)]
    assert [rate for *_, rate in logged] == pytest.approx(rates, rel=1e-12)


def mpirun(workers, *command):
    places = ["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-np", str(workers)]
    return subprocess.run(
        ["mpirun", *places, sys.executable, "-m", "hvd_imagenet.cli", *map(str, command)],
        # Python's own copy of the environment: MPI adds to the real one when it starts, and mpirun fails of that.
        env=outside(),
        capture_output=True,
        text=True,
        timeout=LAUNCH_SECONDS,
    )


def test_mpirun_takes_the_same_steps_and_passes_the_status_on(recipe, image_folder, walks, tmp_path):
    arguments = ["train", "--config", recipe, "--data.path", image_folder]
    done = mpirun(2, *arguments, "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["workers"] == 2
    for kind in ("model", "optimizer"):
        assert closest(weights(walks / "on-2", 8)[kind], weights(tmp_path / "run", 8)[kind]) < 1e-9
    for options, status in ((["--data.path", "/nowhere"], 3), (["--seed", "x"], 2)):
        done = mpirun(2, *arguments, *options, "--run", tmp_path / "refused")
        assert done.returncode == status
        assert done.stderr.count("hvd-imagenet: error: ") == 1


def test_a_resumed_run_equals_one_in_a_piece(walks):
    # The first part ends after 100 samples with the step that an unbroken run takes there, too.
    whole, parts = walks / "on-2", walks / "resumed"
    for kind in ("model", "optimizer"):
        assert closest(weights(whole, 8)[kind], weights(parts, 8)[kind]) < 1e-12
    assert [e["step"] for e in metrics(parts, "step")] == list(range(1, 9))
    assert [e["loss"] for e in metrics(parts, "step")] == pytest.approx(
        [e["loss"] for e in metrics(whole, "step")], rel=1e-12
    )
    assert [e["step"] for e in metrics(parts, "eval")] == [3, 5, 8]
    assert all(one["step"] < other["step"] for one, other in pairwise(metrics(parts, "step")))


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(recipe, image_folder, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train(recipe, image_folder, run) == 130
    assert not list((run / "checkpoints").iterdir())
    assert cli.main(["evaluate", "--run", str(run)]) == 6
    assert "holds no checkpoint; the run has not got so far" in capsys.readouterr().err
    assert cli.main(["train", "--run", str(run), "--resume"]) == 0
    assert [event["step"] for event in metrics(run, "step")] == list(range(1, 9))
