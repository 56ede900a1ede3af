"""TensorBoard's event files, read by TensorBoard's own reader."""

import subprocess
import sys

import pytest
from runs import metrics, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hvd_imagenet import cli
from hvd_imagenet.metrics.tensorboard import EVALUATION_TAGS, STEP_TAGS, TensorBoardFile


def scalars(folder):
    """What TensorBoard finds in a folder: (step, value) by tag."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_run_is_there_under_every_tag_with_all_its_values(recipe, image_folder, tmp_path):
    assert train(recipe, image_folder, tmp_path / "run") == 0
    found = scalars(tmp_path / "run" / "tensorboard")
    of_workers = {"worker_seconds/slowest", "worker_seconds/median"}  # of several
    assert set(found) == {*STEP_TAGS.values(), *EVALUATION_TAGS.values()} - of_workers
    for kind, tags in (("step", STEP_TAGS), ("eval", EVALUATION_TAGS)):
        events = metrics(tmp_path / "run", kind)
        assert events
        for key, tag in tags.items():
            if tag not in of_workers:
                written = [(event["step"], pytest.approx(event[key], rel=1e-6)) for event in events if key in event]
                assert found[tag] == written, tag


def test_a_run_that_goes_on_is_one_curve(recipe, image_folder, tmp_path):
    run = tmp_path / "run"
    assert train(recipe, image_folder, run, "--epochs", "1", "--checkpoint.every_epochs", "null") == 0
    at_step_3 = TensorBoardFile(run / "tensorboard", from_step=3)  # of a job that was killed later
    for step in (4, 5):
        at_step_3.step({"step": step, "loss": 99.0})
    at_step_3.close()
    assert cli.main(["train", "--run", str(run), "--resume", "--epochs", "3"]) == 0
    steps = [event["step"] for event in metrics(run, "step")]
    assert [step for step, _ in scalars(run / "tensorboard")["train/loss"]] == steps == list(range(1, 9))
    assert 99.0 not in [value for _, value in scalars(run / "tensorboard")["train/loss"]]


def test_a_run_that_begins_again_before_its_first_checkpoint_is_one_curve(tmp_path):
    for losses in ([9.0, 9.0, 9.0], [1.0, 1.0]):
        job = TensorBoardFile(tmp_path, from_step=0)
        for step, loss in enumerate(losses, 1):
            job.step({"step": step, "loss": loss})
        job.close()
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0)]


def test_the_times_of_several_workers_are_there(walks):
    steps = metrics(walks / "on-2", "step")[2:]
    found = scalars(walks / "on-2" / "tensorboard")
    for key in ("slowest_seconds", "median_seconds"):
        assert found[STEP_TAGS[key]] == [(event["step"], pytest.approx(event[key], rel=1e-6)) for event in steps]


def test_a_later_jobs_file_is_read_later_whatever_the_clocks_say(tmp_path):
    (tmp_path / "events.out.tfevents.4000000000.elsewhere.1").write_bytes(b"")  # of the year 2096
    TensorBoardFile(tmp_path, from_step=0).close()
    [_, later] = sorted(path.name for path in tmp_path.iterdir())
    assert later.startswith("events.out.tfevents.4000000001.")


def test_none_is_written_where_none_is_wanted(recipe, image_folder, tmp_path):
    assert train(recipe, image_folder, tmp_path / "run", "--log.tensorboard", "false", "--epochs", "1") == 0
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_no_framework_is_loaded_for_it():
    program = "import hvd_imagenet.metrics.tensorboard, sys; print({'tensorflow', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
