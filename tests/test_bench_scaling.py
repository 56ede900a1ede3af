"""The scaling bench: its arithmetic by hand, its contestants on two workers, and what it refuses."""

import json
import os
import subprocess

import numpy as np
import psutil
import pytest
from jobs import HOROVODRUN

from hvd_imagenet import cli
from hvd_imagenet.bench import emulation, jobs, scaling, scaling_table
from hvd_imagenet.bench.work import Answer
from hvd_imagenet.buckets import buckets
from hvd_imagenet.config import Config, ModelSettings
from hvd_imagenet.models.initial import initial_parameters
from hvd_imagenet.models.spec import RESNETS

SMALL = ["--model.name", "resnet8", "--model.classes", "10", "--data.image_size", "28", "--batch.micro_size", "16"]
QUICK = ["--rounds", "2", "--seconds", "0.1"]


def answers(images, seconds, **told):
    return Answer(images, seconds, 2, told)


def test_efficiencies_and_parts():
    """Alone 100 and 50 images/s; uncoupled 80 + 80 and 50 + 30; the job 150 and 60.

    Of twice one alone: 75 % and 60 %; of the uncoupled: 150 / 160 and 60 / 80.
    """
    found = scaling_table.measured(
        {
            ("one", 2): [[answers(100, 1.0, forward=1.0)], [answers(100, 2.0, forward=3.0)]],
            ("uncoupled", 2): [
                [answers(80, 1.0, forward=1.0), answers(160, 2.0, forward=2.0)],
                [answers(50, 1.0, forward=1.0), answers(30, 1.0, forward=2.0)],
            ],
            ("gloo", 2): [[answers(150, 1.0, communication=0.5)], [answers(60, 1.0, communication=1.5)]],
        }
    )
    one, uncoupled, job = found
    assert job["to_one"]["values"] == [0.75, 0.6] and job["to_uncoupled"]["values"] == [150 / 160, 60 / 80]
    assert uncoupled["to_one"]["values"] == [0.8, 0.8] and "to_uncoupled" not in uncoupled
    assert one["images_per_second"]["values"] == [100, 50] and "to_one" not in one
    assert uncoupled["seconds"]["forward"]["values"] == [1.5, 1.5]
    assert list(job["seconds"]) == ["communication"] and job["seconds"]["communication"]["median"] == 1


def test_one_worker_has_nothing_to_be_compared_with():
    (row,) = scaling_table.measured({("one", 1): [[answers(100, 1.0)]]})
    assert row.keys() == {"contestant", "workers", "images_per_second", "seconds"}


def test_the_cost_of_coordination():
    """Steps of 30 and 35 ms around 20 ms of sleep, then of 50: 10 and 15 ms, then 30: three and two times as much."""
    found = scaling_table.emulated(
        {
            ("mpi", 2): [[Answer(10, 0.30, 10, {})], [Answer(10, 0.35, 10, {})]],
            ("mpi", 32): [[Answer(2, 0.1, 2, {})], [Answer(2, 0.1, 2, {})]],
        },
        20.0,
    )
    assert found[0]["coordination_seconds"]["values"] == pytest.approx([0.010, 0.015])
    assert found[1]["step_seconds"]["values"] == [0.05, 0.05]
    assert found[0]["growth"]["values"] == [1, 1] and found[1]["growth"]["values"] == pytest.approx([3, 2])


@pytest.mark.parametrize("name", ["resnet8", "resnet50"])
def test_emulated_workers_exchange_what_real_ones_do(name):
    """All parameters, in as many buckets as the trainer's; statistics as many as channels twice."""
    config = Config(model=ModelSettings(name, 10))
    given = emulation.emulated(config, 90)
    sizes = [value.size for _, value in initial_parameters(RESNETS[name], 10, 0)]
    ready, counts = zip(*given["buckets"], strict=True)
    assert sum(counts) == sum(sizes)
    # A shortcut's place in the backward is not quite that among the parameters.
    assert abs(len(counts) - len(buckets([4 * size for size in sizes[::-1]], None))) <= 1
    assert list(ready) == sorted(ready) and ready[-1] == pytest.approx(1) and ready[0] >= 1 / 3
    assert given["seconds"] == 0.09 and given["forward"] == pytest.approx(1 / 3)
    channels = sum(layer.out_channels for layer, _ in RESNETS[name].conv_norms())
    assert given["statistics"] == 2 * channels


def test_memory_of_emulated_workers(monkeypatch):
    """A network of 2^28 numbers: a GiB of gradients; with 150 MiB, 1.15 GiB each."""
    given = {"buckets": [(0.5, 2**27), (1.0, 2**27)]}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 4.7 * 2**30}))
    emulation.require_memory(given, 4)
    with pytest.raises(
        scaling.SettingsError, match="--workers: .* 5 processes and take 5.7 GiB, of which 4.7 are free"
    ):
        emulation.require_memory(given, 5)


def test_cores_are_shared_out():
    cores = sorted(os.sched_getaffinity(0))
    assert jobs.cores_of(1) == [cores]
    assert sorted(sum(jobs.cores_of(2), [])) == cores or len(cores) == 1
    assert emulation.powers_of_two(6) == [1, 2, 4] and emulation.powers_of_two(8, 2) == [2, 4, 8]


def test_jobs_have_what_their_launchers_give_them(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    task = jobs.Task("some", {})
    (gloo,), (mpi,) = (jobs.job(*of).commands for of in (("gloo", task, 2), ("mpi", task, 4)))
    assert gloo.launcher[0].endswith("/horovodrun") and gloo.launcher[2:4] == ["-np", "2"]
    assert {"--gloo", "localhost:2", "lo"} <= set(gloo.launcher)
    assert mpi.launcher[0].endswith("/mpirun") and mpi.environment["HOROVOD_CONTROLLER"] == "mpi"
    assert mpi.environment["OMPI_MCA_mpi_yield_when_idle"] == "1"
    assert mpi.environment["OMPI_ALLOW_RUN_AS_ROOT"] == "1"
    beside = jobs.apart(task, 2)
    assert beside.speakers == 2 and [one.task.cores for one in beside.commands] == jobs.cores_of(2)
    assert [one.task.cores for one in jobs.apart(task, 1, of=2).commands] == jobs.cores_of(2)[:1]


@pytest.mark.parametrize(
    ("strong", "count", "expected"), [(False, 4, 4), (False, 1, 1), (True, 1, 8), (True, 4, 8), (True, 8, 8)]
)
def test_micro_batches_of_a_step(strong, count, expected):
    assert scaling._micro_batches(Config(), count, strong) == expected  # 256 images in micro-batches of 32


@pytest.fixture
def quick_horovodrun(tmp_path, monkeypatch):
    """A horovodrun that asks PyTorch alone what Horovod was built with."""
    real = jobs.job

    def job(transport, task, workers):
        crew = real(transport, task, workers)
        (command,) = crew.commands
        if transport == "gloo":
            launcher = [jobs.sys.executable, "-c", HOROVODRUN, *command.launcher[1:]]
            crew = jobs.Crew([jobs.Command(task, launcher, command.environment)])
        return crew

    monkeypatch.setattr(jobs, "job", job)


def test_all_are_started_anew(tmp_path, capsys):
    """The workers of one start do not meet those of the one before."""
    options = ["--workers", "2", "--transport", "mpi", "--against", "ddp", "--starts", "2"]
    assert cli.main(["bench", "scaling", *SMALL, *QUICK, *options, "--json", str(tmp_path / "scaling.json")]) == 0
    assert "2 rounds of 0.1 s over 2 starts" in " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert found["settings"]["starts"] == 2
    assert [len(row["images_per_second"]["values"]) for row in found["results"]] == [2, 2]


def test_the_command_on_two_workers(tmp_path, capsys, quick_horovodrun):
    before = psutil.Process().children()
    options = [*SMALL, *QUICK, "--workers", "1,2", "--json", str(tmp_path / "scaling.json")]
    assert cli.main(["bench", "scaling", *options]) == 0
    said = capsys.readouterr().out
    assert "weak scaling, 2 rounds of 0.1 s" in " ".join(said.split())
    rows = {
        (row["contestant"], row["workers"]): row
        for row in json.loads((tmp_path / "scaling.json").read_text())["results"]
    }
    kinds = ["gloo", "mpi", "one", "uncoupled", "ddp"]
    assert list(rows) == [("one", 1), *((kind, 2) for kind in kinds)]
    for kind in ("gloo", "mpi", "ddp"):
        row = rows[kind, 2]
        to = np.divide(row["images_per_second"]["values"], rows["one", 2]["images_per_second"]["values"]) / 2
        assert row["to_one"]["values"] == pytest.approx(list(to))
        if kind != "ddp":
            seconds = {part: figure["values"] for part, figure in row["seconds"].items()}
            assert min(seconds["communication"] + seconds["forward"] + seconds["update"]) > 0
            steps = 32 / np.array(row["images_per_second"]["values"])  # two micro-batches of 16 each
            parts = np.sum(list(seconds.values()), 0)  # of the steps before them, by one, which may be slower
            assert (0.1 * steps < parts).all() and (parts < 10 * steps).all()
    assert psutil.Process().children() == before


@pytest.mark.long
def test_keras_and_data_and_strong_scaling(tmp_path, image_folder):
    small = ["--model.name", "resnet8", "--model.classes", "2", "--data.image_size", "28", "--framework", "keras"]
    batch = ["--batch.micro_size", "8", "--batch.global_size", "32", "--strong", "--data.path", str(image_folder)]
    options = [*small, *batch, *QUICK, "--workers", "2", "--transport", "mpi", "--against", "uncoupled"]
    assert cli.main(["bench", "scaling", *options, "--json", str(tmp_path / "scaling.json")]) == 0
    rows = {row["contestant"]: row for row in json.loads((tmp_path / "scaling.json").read_text())["results"]}
    assert list(rows) == ["mpi", "uncoupled", "fed-mpi"]
    assert list(rows["mpi"]["seconds"]) == ["data", "compute", "communication"]
    assert rows["fed-mpi"]["seconds"]["data"]["median"] > rows["mpi"]["seconds"]["data"]["median"]


def test_sleeping_workers(tmp_path, capsys):
    options = [*SMALL, *QUICK, "--emulate-step", "30", "--workers", "2,4", "--transport", "mpi"]
    assert cli.main(["bench", "scaling", *options, "--json", str(tmp_path / "scaling.json")]) == 0
    assert "30 ms of sleep in place of" in " ".join(capsys.readouterr().out.split())
    rows = json.loads((tmp_path / "scaling.json").read_text())["results"]
    assert [row["workers"] for row in rows] == [2, 4]
    assert min(row["coordination_seconds"]["median"] for row in rows) > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "5000"], "--workers: 5000; this machine has "),
        (["--workers", "0"], "--workers: 0; give numbers from 1 on"),
        (["--workers", "1,x"], "--workers: 1,x; give numbers from 1 on"),
        (["--workers", "1", "--emulate-step", "5"], "--workers: 1; give numbers from 2 on"),
        (["--emulate-step", "0"], "--emulate-step: 0.0; give a number of milliseconds above 0"),
        (["--emulate-step", "5", "--against", "ddp"], "--against: with --emulate-step there is none: leave it out"),
        (["--emulate-step", "5", "--strong"], "--strong: with --emulate-step there is none: leave it out"),
        (["--emulate-step", "5", "--framework", "keras"], "framework: keras; --emulate-step exchanges by PyTorch's"),
        (["--against", "deepspeed"], "--against: deepspeed; known: one, uncoupled, ddp"),
        (["--against", "ddp", "--framework", "keras"], "--against: ddp; is of PyTorch: give --framework torch"),
        (["--transport", "ucx", "--workers", "2"], "--transport: ucx; known: gloo, mpi"),
        (["--strong", "--workers", "2", "--batch.global_size", "48"], "which 2 workers cannot share evenly; give a mu"),
        (["--rounds", "0"], "--rounds: 0; give a number above 0"),
    ],
)
def test_bad_options(options, said, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "built", lambda framework: {"Gloo": True, "MPI": True, "NCCL": False})
    monkeypatch.setattr(jobs, "most_workers", lambda: (2, "core"))
    assert cli.main(["bench", "scaling", *SMALL, *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("has", "path", "said"),
    [
        ({"Gloo": True, "MPI": False}, os.environ["PATH"], "--transport: mpi; Horovod was built without MPI; run: "),
        ({"Gloo": True, "MPI": True}, "/nowhere", "--transport: mpi; there is no mpirun on the PATH; run: "),
    ],
)
def test_a_transport_that_is_not_there(has, path, said, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "built", lambda framework: has)
    monkeypatch.setattr(jobs, "most_workers", lambda: (2, "core"))
    monkeypatch.setenv("PATH", path)
    assert jobs.transports(None, "torch") == ["gloo"]
    assert cli.main(["bench", "scaling", *SMALL, "--workers", "2", "--transport", "mpi"]) == 2
    assert said in capsys.readouterr().err


def test_started_by_a_launcher(monkeypatch, capsys):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    assert cli.main(["bench", "scaling", *SMALL]) == 2
    assert "bench scaling: starts its workers itself; start it alone" in capsys.readouterr().err


def test_what_horovod_was_built_with(monkeypatch):
    """Told by a process of its own; of a framework that is not there, why."""
    said = {}
    monkeypatch.setattr(jobs.built.__globals__["subprocess"], "run", lambda command, **_: said["done"])
    said["done"] = subprocess.CompletedProcess([], 0, 'talk\n{"Gloo": true}\n', "")
    assert jobs.built("torch") == {"Gloo": True}
    said["done"] = subprocess.CompletedProcess([], 1, "framework: torch cannot be loaded\n", "")
    with pytest.raises(jobs.SettingsError, match="^framework: torch cannot be loaded$"):
        jobs.built("torch")
