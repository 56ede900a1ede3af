"""Runs in several parts: on other numbers of workers, past damaged checkpoints, with a full disk."""

import json
import os
import subprocess
import time

import pytest
from jobs import Job, has_saved, mpi, steps_saved
from runs import closest, metrics, train, weights
from test_checkpoint import flip

from hvd_imagenet import checkpoint, cli
from hvd_imagenet.errors import CheckpointError
from hvd_imagenet.metrics.appended import AppendedFile
from hvd_imagenet.torch.backend import Backend

LONG = ["--epochs", "40", "--evaluate.every_epochs", "20", "--checkpoint.every_epochs", "null"]  # 100 steps


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.long)])
def test_from_two_workers_to_three_to_one(framework, recipe, image_shards, tmp_path):
    """In a blocked order of 17 shards, 3 images in each: windows of 12 images, cut anywhere by steps of 20."""
    arguments = ["--config", recipe, "--framework", framework, "--data.path", image_shards, *LONG]
    arguments += ["--stream.shuffle", "blocked", "--stream.window", 4]
    whole = Job(mpi(2), tmp_path / "whole", *arguments)
    assert whole.end() == 0
    run = tmp_path / "parts"
    Job(mpi(2), run, *arguments, "--checkpoint.every_steps", 1).until(has_saved(8)).kill()
    two = steps_saved(run)[-1]
    Job(mpi(3), run, "--resume").until(has_saved(two + 12)).kill()
    three = steps_saved(run)[-1]
    assert Job([], run, "--resume").end() == 0

    assert 8 <= two < two + 12 <= three < 100
    losses = [[event["loss"] for event in metrics(folder, "step")] for folder in (whole.run, run)]
    assert len(losses[0]) == 100 and losses[1] == pytest.approx(losses[0], rel=1e-9)
    for kind in ("model", "optimizer"):
        assert closest(weights(whole.run, 100)[kind], weights(run, 100)[kind]) < 1e-9
    result = json.loads((run / "result.json").read_text())
    assert [(event["step"], event["workers"]) for event in result["restarts"]] == [(two, 3), (three, 1)]
    evaluations = [[(e["step"], e["top1"], e["count"]) for e in metrics(folder, "eval")] for folder in (whole.run, run)]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 2
    saved = [checkpoint.load(folder / "checkpoints", pytest.fail)[1] for folder in (whole.run, run)]
    assert saved[0].samples_seen == saved[1].samples_seen == 2000


def test_auto_starts_goes_on_and_ends(recipe, image_folder, tmp_path):
    run, wall_seconds = tmp_path / "run", []
    for epochs, steps, restarts in ((1, [3], []), (2, [3, 5], [3]), (2, [3, 5], [3])):
        assert train(recipe, image_folder, run, "--resume=auto", "--epochs", str(epochs)) == 0
        assert steps_saved(run) == steps
        assert [event["step"] for event in metrics(run, "restart")] == restarts
        wall_seconds.append(json.loads((run / "result.json").read_text())["wall_seconds"])
    assert wall_seconds[1] > wall_seconds[0]
    assert len(metrics(run, "eval")) == 2


@pytest.mark.parametrize(("every", "waits"), [("null", [3, 5, 8]), ("4", [1, 3, 4, 5, 8])])
def test_the_device_is_waited_for_only_where_something_is_due(
    recipe, image_folder, tmp_path, monkeypatch, every, waits
):
    take, waited = Backend.take_totals, []

    def watched(self, wait):
        taken = take(self, wait)
        waited.extend(of.step + 1 for of, _ in taken if wait)
        return taken

    monkeypatch.setattr(Backend, "take_totals", watched)
    options = ["--log.every_steps", "1000", "--faults.fingerprint_every_steps", every]
    assert train(recipe, image_folder, tmp_path / "run", *options) == 0
    assert waited == waits  # epochs end in steps 3, 5 and 8


@pytest.fixture
def three(recipe, image_folder, tmp_path):
    """A run of eight steps with checkpoints at 3, 5 and 8, to be damaged."""
    run = tmp_path / "run"
    assert train(recipe, image_folder, run) == 0
    return run


def test_a_damaged_checkpoint_is_passed_over_and_set_aside(three, capsys):
    before = weights(three, 8)
    flip(three / "checkpoints" / "step-00000008" / "model.safetensors")
    assert cli.main(["evaluate", "--run", str(three)]) == 0
    assert steps_saved(three) == [3, 5, 8]  # evaluating changes nothing
    assert cli.main(["train", "--run", str(three), "--resume"]) == 0
    assert "step-00000008/model.safetensors: damaged, not what was saved; trying the checkpoint before" in (
        capsys.readouterr().out
    )
    assert sorted(path.name for path in (three / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000005",
        "step-00000008",
        "step-00000008.unusable",
    ]
    for kind in ("model", "optimizer"):
        assert closest(before[kind], weights(three, 8)[kind]) == 0
    assert [event["step"] for event in metrics(three, "step")] == list(range(1, 9))
    assert [event["step"] for event in json.loads((three / "result.json").read_text())["restarts"]] == [5]


def test_a_run_that_is_made_shorter_ends_evaluated(three):
    assert cli.main(["train", "--run", str(three), "--resume", "--epochs", "1", "--evaluate.every_epochs", "50"]) == 0
    assert [event["step"] for event in metrics(three, "eval")] == [3, 5, 8]
    for step in (5, 8):
        checkpoint.remove(three / "checkpoints", step)
    path = three / "checkpoints" / "step-00000003" / "state.json"
    state, progress, settings = checkpoint.load(three / "checkpoints", pytest.fail)
    progress.evaluations, progress.evaluation_due = [], False  # as of a run that evaluates seldom
    checkpoint.save(three / "checkpoints", state, progress, settings)
    assert path.exists()
    assert cli.main(["train", "--run", str(three), "--resume", "--epochs", "1"]) == 0
    assert json.loads((three / "result.json").read_text())["steps"] == 3


@pytest.mark.parametrize(
    ("left", "minutes_ago", "status"),
    [("lock", 0, 0), ("config.yaml.partial", 0, 0), ("STOP", 3, 0), ("STOP", 0, 75)],  # a STOP of today is for this job
)
def test_what_a_start_that_was_cut_short_leaves_is_not_in_the_way(
    recipe, image_folder, tmp_path, left, minutes_ago, status
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).touch()
    os.utime(tmp_path / "run" / left, (time.time() - 60 * minutes_ago,) * 2)
    assert train(recipe, image_folder, tmp_path / "run", "--epochs", "1000" if status else "1") == status


@pytest.mark.parametrize(("minutes_ago", "status"), [(3, 0), (0, 75)])
@pytest.mark.parametrize("hours_ahead", [-1, 1])
def test_an_old_request_to_stop_is_known_as_such_by_the_files_clock(
    recipe, image_folder, tmp_path, monkeypatch, hours_ahead, minutes_ago, status
):
    """This host's own clock is off, as it seems from the file server."""
    true_time = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true_time() + hours_ahead * 3600 * 10**9)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "STOP").touch()
    os.utime(tmp_path / "run" / "STOP", ns=(true_time() - minutes_ago * 60 * 10**9,) * 2)
    assert train(recipe, image_folder, tmp_path / "run", "--epochs", "1000" if status else "1") == status


def test_a_damaged_newest_does_not_push_out_good_ones(three):
    """With keep 1, the damaged one must not count as the newest of them."""
    flip(three / "checkpoints" / "step-00000008" / "state.json", 80)
    assert cli.main(["train", "--run", str(three), "--resume", "--checkpoint.keep", "1"]) == 0
    assert checkpoint.load(three / "checkpoints", pytest.fail)[1].step == 8


def test_no_usable_checkpoint_is_an_end_of_its_own(three, capsys):
    for step in (3, 5, 8):
        flip(three / "checkpoints" / f"step-0000000{step}" / "model.safetensors")
    assert cli.main(["train", "--run", str(three), "--resume"]) == 6
    said = capsys.readouterr().err
    assert "holds no usable checkpoint" in said and "step-00000003/model.safetensors: damaged" in said
    assert steps_saved(three) == [3, 5, 8]


def test_the_best_checkpoint_is_kept_whatever_its_age(recipe, image_folder, tmp_path, monkeypatch):
    from hvd_imagenet import trainer
    from hvd_imagenet.evaluation import totals
    from hvd_imagenet.totals import Totals

    top1 = iter([3, 9, 4, 9, 1, 2])
    monkeypatch.setattr(trainer, "evaluate_all", lambda *_: Totals(10.0, next(top1), 20, 23))
    assert totals.evaluate_all is not trainer.evaluate_all
    run = tmp_path / "run"
    assert train(recipe, image_folder, run, "--epochs", "6", "--checkpoint.keep", "2") == 0
    assert steps_saved(run) == [5, 13, 15]  # epochs end in steps 3, 5, 8, 10, 13, 15; the first of the two best
    assert json.loads((run / "result.json").read_text())["best_top1"] == 9 / 23


def test_an_evaluation_that_a_kill_cut_short_comes_after_the_restart(recipe, image_folder, tmp_path, monkeypatch):
    from hvd_imagenet import trainer

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_all", killed)
        with pytest.raises(Killed):
            train(recipe, image_folder, run)
    assert steps_saved(run) == [3] and metrics(run, "eval") == []  # saved first: a long evaluation risks nothing
    assert cli.main(["train", "--run", str(run), "--resume"]) == 0
    assert [event["step"] for event in metrics(run, "eval")] == [3, 5, 8]
    assert [event["event"] for event in map(json.loads, (run / "metrics.jsonl").open())][3:5] == ["restart", "eval"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 5 MB; a checkpoint of the test's run has 1.3."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


FULL = ["--epochs", "6", "--checkpoint.keep", "1"]  # epochs end in steps 3, 5, 8, 10, 13, 15


def test_a_full_disk_is_said_and_the_run_goes_on(recipe, image_folder, small_disk, monkeypatch, capsys):
    filler, save, failed = small_disk / "filler", checkpoint.save, []

    def until_there_is_space(folder, state, progress, settings):
        try:
            if progress.step == 5:
                filler.write_bytes(bytes(3_000_000))
            save(folder, state, progress, settings)
        except CheckpointError:
            failed.append(progress.step)
            assert steps_saved(folder.parent) == [3]
            if len(failed) == 2:
                filler.unlink()
            raise

    monkeypatch.setattr(checkpoint, "save", until_there_is_space)
    run = small_disk / "run"
    assert train(recipe, image_folder, run, *FULL) == 0
    assert failed == [5, 8]
    said = capsys.readouterr().out
    warning = (
        "warning: {}: cannot be written (No space left on device); free some space; going on, the checkpoints before"
    )
    for step in failed:
        assert warning.format(checkpoint.path_of(run / "checkpoints", step)) in said
    assert checkpoint.load(run / "checkpoints", pytest.fail)[1].step == 15


def test_a_full_disk_ends_the_run_where_the_settings_say_so(recipe, image_folder, small_disk, capsys):
    (small_disk / "filler").write_bytes(bytes(3_000_000))
    run = small_disk / "run"
    assert train(recipe, image_folder, run, *FULL, "--checkpoint.on_failure", "stop") == 6
    assert "step-00000005: cannot be written (No space left on device); free some space" in capsys.readouterr().err
    assert steps_saved(run) == [3]
    assert json.loads((run / "status.json").read_text())["exit_code"] == 6
    (small_disk / "filler").unlink()
    assert cli.main(["train", "--run", str(run), "--resume"]) == 0
    assert [event["step"] for event in metrics(run, "step")] == list(range(1, 16))


def test_a_run_whose_end_cannot_be_saved_has_not_succeeded(recipe, image_folder, small_disk):
    (small_disk / "filler").write_bytes(bytes(3_000_000))
    assert train(recipe, image_folder, small_disk / "run", *FULL) == 6
    assert steps_saved(small_disk / "run") == [3]


def test_lines_wait_for_a_full_disk(small_disk):
    file = AppendedFile(small_disk / "lines")
    file.write(b"one\n")
    filler = (small_disk / "filler").open("wb", buffering=0)
    with pytest.raises(OSError):
        while True:
            filler.write(bytes(4096))
    long = b"x" * 10_000 + b"\n"
    file.write(long)
    file.write(b"three\n")
    assert len((small_disk / "lines").read_text()) <= 4096
    filler.truncate(0)
    file.write(b"four\n")
    file.close()
    assert (small_disk / "lines").read_text() == f"one\n{long.decode()}three\nfour\n"
