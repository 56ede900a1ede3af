"""Whole jobs under their launchers: what becomes of them when workers are killed, stopped, signalled, or go wrong."""

import json
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import make_image_folder
from jobs import Job, gloo, gone, has_saved, mpi, steps_saved
from runs import metrics, train

from hvd_imagenet import checkpoint, cli
from hvd_imagenet.backend import Batch
from hvd_imagenet.data.loader import TrainLoader
from hvd_imagenet.data.store import open_store
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.stream import BlockedOrder, GlobalOrder
from hvd_imagenet.torch import backend as torch_backend
from hvd_imagenet.torch.backend import Backend

HOST = socket.gethostname()
JOB_SH = ["bash", Path(__file__).parents[1] / "launch" / "job.sh"]
ENDLESS = ["--epochs", "100000", "--checkpoint.every_epochs", "null", "--evaluate.every_epochs", "100000"]
LAUNCHERS = {"gloo": gloo, "mpi": mpi}
WAYS = [("gloo", "torch"), ("mpi", "torch")]
WAYS += [pytest.param(launcher, "keras", marks=pytest.mark.long) for launcher in LAUNCHERS]


@pytest.fixture
def begin(recipe, image_folder, tmp_path):
    """Starts a job that would go on for ever, and waits for its fourth step; ends with the test at the latest."""
    jobs = []

    def begin(launcher, *options, **more):
        arguments = ["--config", recipe, "--data.path", image_folder, *ENDLESS, "--checkpoint.every_steps", 4]
        jobs.append(Job(launcher, tmp_path / "run", *arguments, *options, **more))
        return jobs[-1].until(has_saved(4))

    yield begin
    for job in jobs:
        if job.process.poll() is None:
            job.kill()


@pytest.mark.parametrize(("launcher", "framework"), WAYS)
def test_a_killed_worker_ends_the_job_and_is_named_last(begin, launcher, framework):
    job = begin(LAUNCHERS[launcher](2), "--framework", framework, script=JOB_SH)
    workers = job.workers()
    job.signal(1, signal.SIGKILL)
    start = time.monotonic()
    assert job.end() == 1
    assert time.monotonic() - start < 30
    last = job.log().splitlines()[-1]
    assert last.startswith(f"job.sh: failed, exit status 1: worker 1 on {HOST} was ended by SIGKILL (signal 9)")
    status = job.status()
    assert (status["status"], status["exit_code"], status["rank"], status["host"]) == ("failed", 1, 1, HOST)
    assert gone(workers.values())


@pytest.mark.parametrize(
    ("rank", "launcher"), [(1, "gloo"), (0, "mpi"), pytest.param(1, "mpi", marks=pytest.mark.long)]
)
def test_a_stopped_worker_ends_the_job_after_stall_seconds_and_is_named(begin, rank, launcher):
    job = begin(LAUNCHERS[launcher](2), "--faults.stall_seconds", 3, script=JOB_SH)
    workers = job.workers()
    job.signal(rank, signal.SIGSTOP)
    start = time.monotonic()
    assert job.end() == 1
    assert 3 <= time.monotonic() - start < 30
    last = job.log().splitlines()[-1]
    assert f"exit status 1: worker {rank} on {HOST} has not answered for 3 s (faults.stall_seconds)" in last
    assert gone(workers.values())


def test_a_read_that_hangs_ends_the_job_after_stall_seconds_naming_the_worker(begin, session_folder, tmp_path):
    """Worker 1's images become pipes that nobody writes to: opening one blocks, as on a file server that is gone."""
    for rank in (0, 1):
        make_image_folder(session_folder / f"hanging-{rank}", 50, 23)
    of_its_own = f'exec "$@" --data.path {session_folder}/hanging-$OMPI_COMM_WORLD_RANK'
    job = begin([*mpi(2), "bash", "-c", of_its_own, "worker"], "--faults.stall_seconds", 3, script=JOB_SH)
    workers = job.workers()
    os.mkfifo(tmp_path / "pipe")
    for path in (session_folder / "hanging-1").glob("train/*/*.jpg"):
        os.link(tmp_path / "pipe", tmp_path / "link")
        os.replace(tmp_path / "link", path)
    assert job.end(30) == 1
    last = job.log().splitlines()[-1]
    assert f"exit status 1: all wait for worker 1 on {HOST}, which has got no further for 3 s (faults.sta" in last
    assert gone(workers.values())


def test_a_crash_is_named_by_its_signal(begin):
    job = begin(mpi(2))
    job.signal(0, signal.SIGSEGV)
    job.end()
    assert job.status()["reason"].startswith(f"worker 0 on {HOST} was ended by SIGSEGV (signal 11)")
    assert "Fatal Python error: Segmentation fault" in job.log()


def test_what_goes_wrong_on_one_worker_alone_ends_all_with_its_status(begin, recipe, session_folder, tmp_path):
    """A JPEG that cannot be decoded is found by the worker whose turn it is, in the middle of a step."""
    damaged = make_image_folder(session_folder / "damaged", 50, 23)
    for path in sorted(damaged.glob("train/*/*.jpg"))[::7]:
        path.write_bytes(path.read_bytes().partition(b"\xff\xda")[0])  # nothing but the header
    job = Job([*JOB_SH, *mpi(2)], tmp_path / "run", "--config", recipe, "--data.path", damaged)
    assert job.end() == 3
    last = job.log().splitlines()[-1]
    assert "exit status 3: worker " in last and "cannot be decoded" in last
    assert job.log().count("hvd-imagenet: error: ") == 1
    assert "Traceback" not in job.log()


@pytest.mark.parametrize(("launcher", "framework"), WAYS)
def test_a_signal_to_one_worker_stops_all_with_everything_saved(begin, launcher, framework, tmp_path):
    writing = f"trap : TERM; \"$@\"; code=$?; echo $code >> '{tmp_path / 'codes'}'; exit $code"
    job = begin([*LAUNCHERS[launcher](2), "bash", "-c", writing, "worker"], "--framework", framework)
    job.signal(1, signal.SIGTERM)
    assert job.end() == {"gloo": 1, "mpi": 75}[launcher]  # horovodrun turns every status into 1
    assert (tmp_path / "codes").read_text() == "75\n75\n"
    status = job.status()
    assert (status["status"], status["exit_code"], status["rank"]) == ("stopped", 75, 1)
    assert "since worker 1 got SIGTERM; everything is saved" in status["reason"]
    assert f"ended: {status['reason']}" in (job.run / "log.txt").read_text().splitlines()[-1]
    last = metrics(job.run, "step")[-1]["step"]
    assert steps_saved(job.run)[-1] == last
    _, progress, _ = checkpoint.load(job.run / "checkpoints", pytest.fail)
    assert progress.samples_seen == last * 20
    if launcher == "gloo":
        return
    # It goes on from there.
    again = Job(mpi(2), job.run, "--resume", "auto", "--epochs", (last + 3) * 20 / 50)
    assert again.end() == 0
    assert [event["step"] for event in metrics(job.run, "step")] == list(range(1, last + 4))
    restart = metrics(job.run, "restart")
    assert [(event["step"], event["workers"]) for event in restart] == [(last, 2)]
    result = json.loads((job.run / "result.json").read_text())
    assert [event["step"] for event in result["restarts"]] == [last]


def test_the_launch_script_turns_a_signal_into_a_stop(begin):
    job = begin(gloo(2), script=JOB_SH)
    os.kill(job.process.pid, signal.SIGUSR1)
    assert job.end() == 75
    assert job.log().splitlines()[-1].startswith("job.sh: stopped, exit status 75: stopped after step ")
    assert f"since worker 0 found {job.run / 'STOP'}" in job.status()["reason"]
    assert not (job.run / "STOP").exists()


def test_a_second_signal_ends_the_job_at_once_where_the_first_cannot_be_heeded(begin):
    job = begin(mpi(2))
    job.signal(1, signal.SIGSTOP)  # worker 0 now waits for it, inside of Horovod
    time.sleep(0.5)
    job.signal(0, signal.SIGTERM)
    time.sleep(3)
    assert job.process.poll() is None
    job.signal(0, signal.SIGTERM)
    assert job.end(20) == 128 + signal.SIGTERM
    assert job.status()["exit_code"] == 128 + signal.SIGTERM
    assert "ended at once, without saving, on a second SIGTERM" in job.status()["reason"]


def test_a_request_to_stop_is_for_the_job_that_runs_not_for_the_next(begin):
    job = begin([])
    (job.run / "STOP").touch()
    time.sleep(0.1)
    job.kill()
    (job.run / "STOP").touch(exist_ok=True)  # in case it has looked
    assert Job([], job.run, "--resume", "--epochs", 100).end() == 0


def test_the_launch_script_passes_on_what_is_wrong_before_there_is_a_run(image_folder, tmp_path):
    job = Job([*JOB_SH, *gloo(2)], tmp_path / "run", "--data.path", image_folder, "--seed", "x")
    assert job.end() == 2
    assert job.log().splitlines()[-1] == "job.sh: failed, exit status 2: seed: x; give a whole number"
    assert not job.run.exists()


def test_a_second_job_is_refused_and_the_first_goes_on(begin, monkeypatch, capsys):
    monkeypatch.setattr("hvd_imagenet.faults.job.RunLock", partial(RunLock, patience=1))
    job = begin([])
    before = job.status()
    assert cli.main(["train", "--run", str(job.run), "--resume"]) == 2
    said = capsys.readouterr()
    assert f"in use by process {job.process.pid} on {HOST}; waiting up to 1 s" in said.out
    assert f"in use by process {job.process.pid} on {HOST}; wait for it, end it, or name another folder" in said.err
    assert job.status() == before and job.process.poll() is None
    os.kill(job.process.pid, signal.SIGINT)
    assert job.end() == 75


@pytest.mark.parametrize("workers", [2])
def test_what_goes_wrong_before_the_workers_have_met_is_told_by_who_knows_it(workers, recipe, image_folder, shared):
    """As where a GPU's memory is full when the model is made: the other worker only loses contact."""
    rank = int(os.environ["HOROVOD_RANK"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HVD_IMAGENET_STATUS", str(shared / "made-alone.json"))
        if rank == 1:
            patch.setattr(torch_backend, "build", lambda *_: (_ for _ in ()).throw(MemoryError("full")))
            with pytest.raises(MemoryError):
                train(recipe, image_folder, shared / "made-alone")
        else:
            assert train(recipe, image_folder, shared / "made-alone") == 1
            status = json.loads((shared / "made-alone.json").read_text())
            assert (status["reason"], status["rank"]) == (f"worker 1 on {HOST}: MemoryError('full')", 1)


@pytest.mark.one_launch
@pytest.mark.parametrize("workers", [2])
def test_weights_that_drift_apart_are_found_and_named(workers, recipe, image_folder, shared, monkeypatch, capsys):
    step = Backend.train_step

    def flip(self, plan, *rest, **options):
        step(self, plan, *rest, **options)
        if plan.step == 3 and self.rank == 1:
            weight = dict(self._model.named_parameters())["layer2.0.conv2.weight"].data
            weight[1, 2, 0, 1] = -weight[1, 2, 0, 1]

    monkeypatch.setattr(Backend, "train_step", flip)
    run = shared / "flipped"
    assert train(recipe, image_folder, run, "--faults.fingerprint_every_steps", "2") == 5
    said = capsys.readouterr().err
    expected = (
        "after step 4, the weights of worker 1 are not those of worker 0 any more, first in layer2.0.conv2.weight"
    )
    assert expected in said if os.environ["HOROVOD_RANK"] == "0" else said == ""
    status = json.loads((run / "status.json").read_text())
    assert (status["exit_code"], status["rank"]) == (5, 1)
    assert steps_saved(run) == [3]


@pytest.mark.one_launch
@pytest.mark.parametrize("late", [0, 1], ids=["cpu", "as on a gpu"])
@pytest.mark.parametrize("workers", [2])
def test_a_loss_that_is_not_finite_names_its_samples(workers, late, recipe, image_shards, shared, monkeypatch, capsys):
    """NaN in one pixel of micro-batch 4 of step 5: samples 96 to 99 of the stream, positions 46 to 49 of epoch 1.

    Late in a blocked order, there the last sample of a window and all of the next, else in a global one.
    """
    store = open_store(image_shards, "train")
    order = BlockedOrder(store.shard_samples, 4) if late else GlobalOrder(50)
    decoded, made = TrainLoader.micro_batches, Backend.__init__

    def made_late(self, config):
        made(self, config)
        self._late = late

    def poisoned(self, plan):
        for number, batch in zip(self._wanted.share(plan), decoded(self, plan), strict=True):
            if (plan.step, number) == (4, 4):
                images = torch.from_dlpack(batch.images).clone()
                images[1, 2, 3, 0] = torch.nan
                batch = Batch(images, batch.labels)
            yield batch

    monkeypatch.setattr(Backend, "__init__", made_late)
    monkeypatch.setattr(TrainLoader, "micro_batches", poisoned)
    run = shared / f"poisoned-{late}"
    options = ["--evaluate.every_epochs", "3", "--checkpoint.every_epochs", "null", "--checkpoint.every_steps", "3"]
    options += ["--stream.shuffle", "blocked" if late else "global", "--stream.window", "4"]
    assert train(recipe, image_shards, run, *options, "--log.every_steps", str(1 + late * 5)) == 4
    samples = order.numbers(3, 1, 46, 50).tolist()
    expected = (
        "the loss is nan at step 5, epoch 1.60, learning rate 0.125, in 1 of its 5 micro-batches, first in number 4 "
        f"on worker 1: samples {', '.join(map(str, samples))} ({store.name(samples[0])}, {store.name(samples[1])}, ...)"
    )
    said = capsys.readouterr().err
    assert expected in said if os.environ["HOROVOD_RANK"] == "0" else said == ""
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["exit_code"], status["rank"]) == ("failed", 4, 1)
    assert steps_saved(run) == [3]
    assert [event["step"] for event in metrics(run, "step")] == ([] if late else [1, 2, 3, 4])
    monkeypatch.undo()
    assert cli.main(["train", "--run", str(run), "--resume"]) == 0
