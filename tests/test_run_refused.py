"""Bad input and bad ends: one line, the right status, and nothing that was there is touched."""

import os
import socket

import pytest
from conftest import make_image_folder
from runs import train

from hvd_imagenet import cli, startup
from hvd_imagenet.errors import DataError
from hvd_imagenet.version import version

HOST = socket.gethostname()

pytestmark = pytest.mark.one_launch


@pytest.mark.parametrize("workers", [2])
def test_bad_input_on_two_workers(workers, recipe, image_folder, shared, capsys):
    """Every worker ends with the same status, the first says why, and nothing is written."""
    cases = [
        (["--batch.global_size", "4"], 2, "is 1 micro-batches of 4 for 2 workers; start at most 1 workers or raise"),
        (["--batch.global_sizee", "4"], 2, "did you mean --batch.global_size?"),
        (["--data.path", "/nowhere"], 3, "/nowhere: no such folder"),
        (["--data.path", "/" + 300 * "x"], 3, "xxx: cannot be read (File name too long)"),
        (["--data.train_samples", "51"], 3, "has 50 training images, but data.train_samples is 51"),
        (["--model.classes", "3"], 3, "has 2 classes, but model.classes is 3"),
    ]
    for options, status, message in cases:
        assert train(recipe, image_folder, shared / "refused", *options) == status
        said = capsys.readouterr().err
        if os.environ["HOROVOD_RANK"] != "0" and "--batch.global_sizee" not in options:
            assert said == ""  # all have met: the first says it for all
        else:
            assert message in said and said.count("\n") == 1
    assert not (shared / "refused").exists()


@pytest.mark.parametrize("workers", [2])
def test_what_only_one_worker_finds_ends_both(workers, recipe, image_folder, shared, capsys):
    rank = int(os.environ["HOROVOD_RANK"])
    path = image_folder if rank == 0 else "/missing/on/the/second/host"
    assert train(recipe, path, shared / "refused") == 3
    if rank == 0:
        assert "worker 1: /missing/on/the/second/host: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [2])
def test_settings_that_differ_between_workers_are_refused(workers, recipe, image_folder, shared, capsys):
    rank = os.environ["HOROVOD_RANK"]
    assert train(recipe, image_folder, shared / "refused", "--lr.reference", f"0.{int(rank) + 1}") == 2
    if rank == "0":
        assert "lr.reference: 0.2 on worker 1, 0.1 on worker 0" in capsys.readouterr().err
    assert not (shared / "refused").exists()


@pytest.mark.parametrize("workers", [2])
def test_another_version_of_the_package_is_refused(workers, recipe, image_folder, shared, monkeypatch, capsys):
    if os.environ["HOROVOD_RANK"] == "1":
        monkeypatch.setattr(startup, "version", lambda: "0.0.9+abc")
    assert train(recipe, image_folder, shared / "refused") == 2
    if os.environ["HOROVOD_RANK"] == "0":
        said = capsys.readouterr().err
        assert f"worker 1 on {HOST} runs hvd_imagenet 0.0.9+abc, worker 0 on {HOST} runs {version()}; install" in said
    assert not (shared / "refused").exists()


@pytest.mark.parametrize("workers", [2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_other_data_is_refused(workers, split, recipe, image_folder, session_folder, shared, capsys):
    """On worker 1, one image of one split is missing."""
    rank, path = os.environ["HOROVOD_RANK"], image_folder
    if rank == "1":
        path = make_image_folder(session_folder / f"other-{split}", 50 - (split == "train"), 23 - (split == "val"))
    assert train(recipe, path, shared / "refused") == 3
    if rank == "0":
        said = capsys.readouterr().err
        assert f"other-{split}: the {split} images of worker 1 on {HOST} (checksum " in said
        assert f"are not those of worker 0 on {HOST} in {image_folder} (" in said and said.count("\n") == 1
    assert not (shared / "refused").exists()


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
        (["train"], 2, "data.path: null; give the folder or URL of the data set"),
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
        (["--data.mean", "[0, 0, 0]"], "--resume: data.mean was [0.485, 0.456, 0.406] and is [0.0, 0.0, 0.0]"),
        (["--data.augment", "none"], "--resume: data.augment was random_resized_crop and is none"),
        (["--stream.shuffle", "blocked"], "--resume: stream.shuffle was global and is blocked"),
        (["--stream.window", "8"], "--resume: stream.window was 16 and is 8"),
    ],
)
def test_a_resume_that_would_change_the_walk_is_refused(walks, image_folder, options, message, capsys):
    run = walks / "on-1"
    before = snapshot(run)
    assert cli.main(["train", "--run", str(run), "--resume", "--epochs", "4", *options]) == 2
    assert message in capsys.readouterr().err
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("train_images", "size", "message"),
    [(48, (24, 20), "data.train_samples was 50 and is 48"), (50, (25, 20), "data.contents was ")],
)
def test_a_resume_on_other_data_is_refused(recipe, walks, tmp_path, capsys, train_images, size, message):
    other = make_image_folder(tmp_path / "other", train_images, 23, size=size)
    run = walks / "on-1"
    before = snapshot(run)
    options = ["--config", recipe, "--data.path", str(other), "--run", str(run), "--resume"]
    assert cli.main(["train", *options]) == 2
    assert message in capsys.readouterr().err
    assert snapshot(run) == before


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
