"""Whole runs of the real command on small images: the same walk on 1, 2 and 3 workers, resumed, refused."""

import hashlib
import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import safetensors.numpy
from conftest import LAUNCH_SECONDS, make_image_folder, on_workers

from hvd_imagenet import checkpoint, cli, settings
from hvd_imagenet.data import dali
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError
from hvd_imagenet.stream import share
from hvd_imagenet.stream.augment import random_resized_crop
from hvd_imagenet.stream.order import permutation

EPOCHS, SAMPLES, GLOBAL, MICRO = 3, 50, 20, 4  # five micro-batches: 3 + 2, or 2 + 2 + 1; one of them spans two epochs
RECIPE = f"""
model: {{name: resnet8, classes: 2}}
data: {{image_size: 16, augment: random_resized_crop}}
batch: {{global_size: {GLOBAL}, micro_size: {MICRO}}}
lr: {{reference: 0.05, reference_batch: 8, warmup: {{kind: gradual, epochs: 1}}, schedule: {{milestones: [2]}}}}
epochs: {EPOCHS}
seed: 3
precision: float64
log: {{every_steps: 1}}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return str(tmp_path / "recipe.yaml")


def train(recipe, data, run, *options):
    return cli.main(["train", "--config", recipe, "--data.path", str(data), "--run", str(run), *options])


def metrics(run, kind):
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == kind]


def weights(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {f: safetensors.numpy.load_file(folder / f"{f}.safetensors") for f in ("model", "optimizer")}


def closest(one, other):
    """The largest difference relative to the largest value of its array."""
    assert one.keys() == other.keys()
    return max(np.abs(one[k] - other[k]).max() / max(np.abs(one[k]).max(), 1e-3) for k in one)


@pytest.fixture
def taken(monkeypatch, image_folder):
    """What DALI takes, sample by sample: sample number (known by its bytes), window, mirror, label."""
    store = open_store(image_folder, "train")
    numbers = {hashlib.sha256(data).digest(): n for n, data in enumerate(store.read(np.arange(len(store))))}
    samples, original = [], dali.windowed

    def windowed(source, batch_size, decoding):
        def tap():
            for encoded, *rest in source:
                for data, anchor, shape, mirror, label in zip(encoded, *rest, strict=True):
                    number = numbers[hashlib.sha256(data).digest()]
                    samples.append([number, *anchor.tolist(), *shape.tolist(), int(mirror), int(label)])
                yield encoded, *rest

        return original(tap(), batch_size, decoding)

    monkeypatch.setattr(dali, "windowed", windowed)
    return samples


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_run(workers, recipe, image_folder, shared, taken):
    run = shared / f"on-{workers}"
    assert train(recipe, image_folder, run) == 0
    rank = int(os.environ["HOROVOD_RANK"])
    (shared / f"taken-{workers}-{rank}.json").write_text(json.dumps(taken))


@pytest.mark.parametrize("workers", [2])
def test_a_run_in_two_parts(workers, recipe, image_folder, shared):
    run = shared / "resumed"
    assert train(recipe, image_folder, run, "--epochs", "2") == 0
    assert cli.main(["train", "--run", str(run), "--resume", "--epochs", "3"]) == 0


@pytest.fixture
def walks(shared, image_folder, session_folder, request):
    """The folders of the runs above, made now where a test is run by itself."""
    made_by = {f"on-{workers}": (workers, f"test_a_run[{workers}]") for workers in (1, 2, 3)}
    made_by["resumed"] = 2, "test_a_run_in_two_parts[2]"
    for run, (workers, test) in made_by.items():
        if not (shared / run).exists():
            on_workers(workers, f"{request.path}::{test}", session_folder)
    return shared


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
        windows = random_resized_crop(3, epoch, 0, store.sizes[order])
        expected = np.column_stack([order, windows.anchor, windows.shape, windows.mirror, store.labels[order]])
        assert streams[1][part] == expected.tolist()


def test_the_workers_take_the_same_steps(walks):
    one = walks / "on-1"
    for workers in (2, 3):
        other = walks / f"on-{workers}"
        losses = [[event["loss"] for event in metrics(run, "step")] for run in (one, other)]
        assert len(losses[0]) == 8
        assert losses[1] == pytest.approx(losses[0], rel=1e-9)
        assert [e["top1"] for e in metrics(other, "step")] == [e["top1"] for e in metrics(one, "step")]
        for kind in ("model", "optimizer"):
            assert closest(weights(one, 8)[kind], weights(other, 8)[kind]) < 1e-9
        evaluations = [[(e["top1"], e["top5"], e["count"]) for e in metrics(run, "eval")] for run in (one, other)]
        assert evaluations[0] == evaluations[1]


def test_a_run_leaves_what_the_design_says(walks):
    for workers in (1, 2, 3):
        run = walks / f"on-{workers}"
        assert sorted(f.name for f in run.iterdir()) == [
            "checkpoints",
            "config.yaml",
            "log.txt",
            "metrics.jsonl",
            "result.json",
        ]
        result = json.loads((run / "result.json").read_text())
        evaluations = metrics(run, "eval")
        # Epochs of 50 samples end in steps 3, 5 and 8 of 20: after 60, 100 and 160 samples.
        assert [(e["step"], e["epoch"], e["count"]) for e in evaluations] == [(3, 1.2, 23), (5, 2.0, 23), (8, 3.2, 23)]
        top1 = [e["top1"] for e in evaluations]
        assert result["val_top1"] == top1[-1]
        assert result["best_top1"] == max(top1)
        assert result["median5_top1"] == sorted(top1)[1]
        expected = {"epochs": 3.2, "steps": 8, "samples_seen": 160, "workers": workers, "framework": "torch"}
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
    program = [sys.executable, "-m", "hvd_imagenet.cli"]
    return subprocess.run(
        ["mpirun", *places, *program, *map(str, command)], capture_output=True, text=True, timeout=LAUNCH_SECONDS
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


@pytest.mark.parametrize("workers", [2])
def test_evaluating_a_run(workers, walks, capsys):
    assert cli.main(["evaluate", "--run", str(walks / "on-1")]) == 0
    shown = capsys.readouterr().out
    last = metrics(walks / "on-1", "eval")[-1]
    expected = f"loss {last['loss']:.4f}  top1 {last['top1']:.2%}  top5 100.00%  of 23 images\n"
    assert shown == (expected if os.environ["HOROVOD_RANK"] == "0" else "")


@pytest.mark.parametrize("workers", [2])
def test_bad_input_on_two_workers(workers, recipe, image_folder, shared, capsys):
    """Every worker ends with the same status, the first says why, and nothing is written."""
    cases = [
        (["--batch.global_size", "4"], 2, "is 1 micro-batches of 4 for 2 workers; start at most 1 workers or raise"),
        (["--batch.global_sizee", "4"], 2, "did you mean --batch.global_size?"),
        (["--data.path", "/nowhere"], 3, "/nowhere: no such folder"),
        (["--data.train_samples", "51"], 3, "has 50 training images, but data.train_samples is 51"),
        (["--model.classes", "3"], 3, "has 2 classes, but model.classes is 3"),
    ]
    for options, status, message in cases:
        assert train(recipe, image_folder, shared / "refused", *options) == status
        said = capsys.readouterr().err
        assert (message in said and said.count("\n") == 1) if os.environ["HOROVOD_RANK"] == "0" else said == ""
    assert not (shared / "refused").exists()


@pytest.mark.parametrize("workers", [2])
def test_what_only_one_worker_finds_ends_both(workers, recipe, image_folder, shared, capsys):
    rank = int(os.environ["HOROVOD_RANK"])
    path = image_folder if rank == 0 else "/missing/on/the/second/host"
    assert train(recipe, path, shared / "refused") == 3
    if rank == 0:
        assert "worker 1: /missing/on/the/second/host: no such folder" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(walks, recipe, image_folder, capsys):
    run = walks / "on-1"
    before = snapshot(run)
    assert train(recipe, image_folder, run) == 2
    assert "the folder is in use; add --resume to go on with it" in capsys.readouterr().err
    assert snapshot(run) == before


def test_a_folder_of_something_else_is_refused(recipe, image_folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert train(recipe, image_folder, tmp_path / "mine") == 2
    assert "the folder is in use; name another folder with --run" in capsys.readouterr().err
    assert train(recipe, image_folder, tmp_path / "mine" / "thesis.tex") == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train"], 2, "data.path: null; give the folder of the data set"),
        (["train", "--resume"], 2, "--resume: needs --run"),
        (["train", "--resume", "--run", "/nowhere/run"], 6, "holds no run to resume"),
        (["train", "--run", ""], 2, "--run: is empty"),
        (["evaluate"], 2, "--run: missing"),
        (["evaluate", "--run", "/nowhere/run"], 2, "holds no run"),
        (["train", "--framework", "jax"], 2, "framework: jax; give one of torch, keras"),
        (["trian"], 2, "trian: unknown command"),
        (["data", "pack"], 2, "the following arguments are required: SRC, DST"),
        (["data", "info", "/nowhere"], 3, "/nowhere: no such folder"),
        (["data", "pack", "/nowhere", "DST"], 3, "/nowhere: no such folder"),
        (["data", "fashion-mnist", "DST", "--idx-dir", "/nowhere"], 3, "not found; run: apt-get install"),
        (["schedule"], 2, "data.train_samples: null"),
        (
            ["schedule", "--config", "resnet50_8k", "--plot", "plan.doc"],
            2,
            "--plot: plan.doc; give a file that ends in",
        ),
    ],
)
def test_usage_errors(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == status
    said = capsys.readouterr().err
    assert message in said and said.startswith("hvd-imagenet: error: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_divergence_is_an_end_with_its_own_status(recipe, image_folder, tmp_path, capsys):
    assert train(recipe, image_folder, tmp_path / "run", "--lr.reference", "1e30", "--precision", "float32") == 4
    assert "the loss is nan at step" in capsys.readouterr().err


def test_a_diverged_state_is_not_saved(recipe, image_folder, tmp_path, capsys):
    """The step's loss is that before its update: an update that diverges shows in the weights, or in the evaluation."""
    options = ["--epochs", "3", "--lr.warmup.kind", "none", "--log.every_steps", "1000"]
    run = tmp_path / "run"
    assert train(recipe, image_folder, run, *options, "--epochs", "1") == 0
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert train(recipe, image_folder, run, *options, "--resume", "--lr.reference", "1e30") == 4
    assert "lower lr.reference" in capsys.readouterr().err
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    assert "NaN" not in (run / "metrics.jsonl").read_text()


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.name", "resnet20"], "--resume: model.name was resnet8 and is resnet20; go on with the run's own"),
        (["--batch.global_size", "40"], "--resume: batch.global_size was 20 and is 40"),
        (["--batch.micro_size", "2"], "--resume: batch.micro_size was 4 and is 2"),
        (["--seed", "9"], "--resume: seed was 3 and is 9"),
        (["--data.augment", "none"], "--resume: data.augment was random_resized_crop and is none"),
    ],
)
def test_a_resume_that_would_change_the_walk_is_refused(walks, image_folder, options, message, capsys):
    run = walks / "on-1"
    before = snapshot(run)
    assert cli.main(["train", "--run", str(run), "--resume", "--epochs", "4", *options]) == 2
    assert message in capsys.readouterr().err
    assert snapshot(run) == before


def test_a_resume_on_other_data_is_refused(recipe, walks, session_folder, capsys):
    other = make_image_folder(session_folder / "other", 48, 23)
    run = walks / "on-1"
    before = snapshot(run)
    options = ["--config", recipe, "--data.path", str(other), "--run", str(run), "--resume"]
    assert cli.main(["train", *options]) == 2
    assert "data.train_samples was 50 and is 48" in capsys.readouterr().err
    assert snapshot(run) == before


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(recipe, image_folder, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, image_folder, run)
    assert not list((run / "checkpoints").iterdir())
    assert cli.main(["evaluate", "--run", str(run)]) == 6
    assert "holds no checkpoint; the run has not got so far" in capsys.readouterr().err
    assert cli.main(["train", "--run", str(run), "--resume"]) == 0
    assert [event["step"] for event in metrics(run, "step")] == list(range(1, 9))


def test_evaluating_on_data_with_other_classes(walks, session_folder, capsys):
    other = make_image_folder(session_folder / "three", 6, 6, classes=3)
    assert cli.main(["evaluate", "--run", str(walks / "on-1"), "--data.path", str(other)]) == 3
    assert "has 3 classes, but model.classes is 2" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train"], ["evaluate"], ["schedule"], ["data"], ["data", "pack"], []])
def test_every_command_has_help(command, capsys):
    try:
        assert cli.main([*command, "--help"]) == 0
    except SystemExit as ended:
        assert ended.code == 0
    assert "usage: hvd-imagenet" in capsys.readouterr().out


def test_a_worker_that_alone_finds_something_says_so(monkeypatch, capsys):
    def find(_):
        raise DataError("7.jpg: cannot be decoded")

    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setattr(cli, "data", find)
    assert cli.main(["data"]) == 3
    assert "7.jpg: cannot be decoded" in capsys.readouterr().err
