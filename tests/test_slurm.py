"""Jobs of a real two-node Slurm: what launch/slurm/ makes of limits, requeues and failures."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import ALONE, Job, steps_saved
from runs import RECIPE, closest, metrics, weights
from slurm import Cluster, require_slurm
from studies import NAMES, write_study

from hvd_imagenet import cli

ROOT = Path(__file__).parents[1]
TRAIN, ARRAY = (ROOT / "launch" / "slurm" / f"{name}.sbatch" for name in ("train", "array"))
# Half of what Open MPI waits before it kills: nothing is left to do, where it is not somebody else who ends a job.
PATIENCE = "OMPI_MCA_odls_base_sigkill_timeout"
SCRIPTS = {"CHECKOUT": ROOT, "VENV": sys.prefix, PATIENCE: 1}
SECONDS = 240
BIN = Path(sys.executable).parent  # of hvd-imagenet
SLOW = RECIPE.replace("0.05", "0.0005")  # the rate: thousands of steps then agree to 1e-9
ENDLESS = ["--epochs", "1000000", "--checkpoint.every_epochs", "null", "--evaluate.every_epochs", "1000000"]
PMIX = "srun --mpi=pmix"


@pytest.fixture(scope="module")
def cluster(session_folder):
    require_slurm()
    with Cluster(session_folder / "slurm") as running:
        yield running


@pytest.fixture
def submit(cluster, image_folder, tmp_path):
    """Submits a job that trains, in this test's folder."""

    def submit(script, *options, sbatch=("--nodes=2", "--ntasks=2"), **environment):
        arguments = ["--data.path", image_folder, *options]
        return cluster.submit(tmp_path, *sbatch, script, *arguments, **{**SCRIPTS, **environment})

    return submit


def log(folder, job):
    return (folder / f"slurm-{job}.log").read_text()


def until_step(run, step):
    """Wait until a run has come to a step."""
    give_up = time.monotonic() + SECONDS
    while not (run / "metrics.jsonl").exists() or not any(e["step"] >= step for e in metrics(run, "step")):
        assert time.monotonic() < give_up, f"{run} has not come to step {step}"
        time.sleep(0.1)


def same_weights(one, other):
    """Whether two runs have come to the same step, with the same weights and momentum to 1e-9."""
    assert steps_saved(one)[-1] == steps_saved(other)[-1]
    ones, others = (weights(run, steps_saved(run)[-1]) for run in (one, other))
    return all(closest(ones[kind], others[kind]) < 1e-9 for kind in ones)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("launcher", "framework"), [("", "torch"), (PMIX, "torch"), pytest.param("", "keras", marks=pytest.mark.long)]
)
def test_a_job_on_two_nodes_trains_as_one_process_does(
    launcher, framework, cluster, submit, recipe, image_folder, tmp_path
):
    """Three tasks, two of them on n1: an allocation need not be even."""
    options = ["--config", recipe, "--framework", framework]
    job = submit(TRAIN, *options, "--run", "run", sbatch=["--nodes=2", "--ntasks=3"], LAUNCHER=launcher)
    assert Job([], tmp_path / "alone", *options, "--data.path", image_folder).end(SECONDS) == 0
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log(tmp_path, job)
    run = tmp_path / "run"
    assert same_weights(run, tmp_path / "alone")
    for kind in ("step", "eval"):
        losses = [[event["loss"] for event in metrics(one, kind)] for one in (run, tmp_path / "alone")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9) and losses[0]
    workers = json.loads((run / "status.json").read_text())["workers"]
    assert sorted(worker["host"] for worker in workers) == ["n1", "n1", "n2"]
    assert cluster.completions(job) == [("COMPLETED", "0:0")]
    warning = "train.sbatch: warning: n2: has 1 task, the first node 2; give --ntasks-per-node, and all have the same"
    assert log(tmp_path, job).splitlines()[0] == warning


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("sbatch", "launcher"),
    [
        (["--time=60"], ""),
        (["--time=60"], PMIX),
        (["--time=2", "--signal=B:USR1@60"], ""),  # Slurm looks every 30 s, and is early rather than late
    ],
    ids=["requeued", "requeued, srun", "time limit"],
)
def test_a_job_that_is_requeued_goes_on_where_it_was(sbatch, launcher, cluster, submit, image_folder, tmp_path):
    recipe, run = tmp_path / "slow.yaml", tmp_path / "run"
    options = [*ENDLESS[2:], "--config", recipe, "--data.path", image_folder]
    recipe.write_text(SLOW.replace("epochs: 3", "epochs: 1000000"))
    requeued = "--time=60" in sbatch
    more = {"LAUNCHER": launcher, PATIENCE: "" if requeued else 1}  # as the script has it, where it matters
    job = submit(TRAIN, *options, "--run", "run", sbatch=["--nodes=2", "--ntasks=2", *sbatch], **more)
    until_step(run, 4)
    if requeued:
        cluster.ask("scontrol", "requeue", job)
    cluster.wait(job, "PENDING")
    status = json.loads((run / "status.json").read_text())
    assert status["exit_code"] == 75, log(tmp_path, job)
    last = steps_saved(run)[-1]
    recipe.write_text(SLOW.replace("epochs: 3", f"epochs: {(last + 3) * 20 / 50}"))  # it shall come to an end
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # minutes
    assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", log(tmp_path, job)
    assert cluster.state(job, "Restarts") == "1"
    assert [event["step"] for event in metrics(run, "step")] == list(range(1, last + 4))
    assert [(event["step"], event["workers"]) for event in metrics(run, "restart")] == [(last, 2)]
    assert [state for state, _ in cluster.completions(job)] == ["PENDING", "COMPLETED"]
    assert Job([], tmp_path / "alone", *options).end(SECONDS) == 0
    assert same_weights(run, tmp_path / "alone")


@pytest.mark.cluster
def test_a_failure_is_final(cluster, submit, recipe, tmp_path):
    """A loss that is not finite: status 4."""
    job = submit(TRAIN, "--config", recipe, "--lr.reference", "1e30", "--run", "run")
    assert cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 4
    assert cluster.completions(job) == [("FAILED", "4:0")]
    assert cluster.state(job, "Restarts") == "0"
    assert "job.sh: failed, exit status 4: the loss " in log(tmp_path, job).splitlines()[-1]


@pytest.mark.cluster
def test_a_job_is_restarted_as_often_as_it_may_be(cluster, submit, recipe, tmp_path):
    job = submit(TRAIN, "--config", recipe, *ENDLESS, MAX_RESTARTS=1)
    run = tmp_path / "runs" / f"slurm-{job}"
    for restarts in (0, 1):
        until_step(run, 1 + (steps_saved(run)[-1] if restarts else 0))
        assert cluster.state(job, "Restarts") == str(restarts)
        cluster.ask("scancel", "--batch", "--signal=USR1", job)
        assert cluster.wait(job, "PENDING", "FAILED", "COMPLETED") == ("FAILED" if restarts else "PENDING")
    assert cluster.completions(job)[-1] == ("FAILED", "75:0")
    assert cluster.state(job, "Restarts") == "1"
    assert "restarted 1 times, as MAX_RESTARTS allows" in log(tmp_path, job).splitlines()[-1]


@pytest.mark.cluster
def test_a_job_that_a_person_stops_does_not_come_back(cluster, submit, recipe, tmp_path):
    job = submit(TRAIN, "--config", recipe, *ENDLESS, "--run", "run")
    until_step(tmp_path / "run", 1)
    (tmp_path / "run" / "STOP").touch()
    assert cluster.wait(job, "PENDING", "FAILED") == "FAILED"
    assert cluster.completions(job) == [("FAILED", "75:0")]


@pytest.mark.cluster
def test_an_array_trains_each_seed_and_recipe_in_a_folder_of_its_own(cluster, submit, recipe, tmp_path):
    (tmp_path / "short.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 1"))
    places = ["--array=1-2", "--nodes=2", "--ntasks=2"]  # recipe 1 with seed 0, recipe 0 with seed 1
    job = submit(ARRAY, sbatch=places, RECIPES=f"{recipe} short.yaml", RUNS="study")
    for task in (1, 2):
        assert cluster.wait(f"{job}_{task}", "COMPLETED", "FAILED") == "COMPLETED"
    results = {p.parent.name: json.loads(p.read_text())["epochs"] for p in (tmp_path / "study").glob("*/result.json")}
    assert results == {"short-seed-0": 1.2, "recipe-seed-1": 3.2}
    assert "\nseed: 1\n" in (tmp_path / "study" / "recipe-seed-1" / "config.yaml").read_text()


@pytest.mark.cluster
def test_an_array_trains_the_runs_of_a_study(cluster, submit, image_folder, tmp_path):
    """Submitted again it has nothing to do; the study's own command makes the table of what the tasks have left."""
    file = write_study(tmp_path)
    for _ in range(2):
        job = submit(ARRAY, sbatch=["--array=0-3", "--nodes=2", "--ntasks=2"], STUDY="study.yaml", RUNS="out")
        for task in range(4):
            assert cluster.wait(f"{job}_{task}", "COMPLETED", "FAILED") == "COMPLETED"
    results = {p.parent: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*/*/result.json")}
    assert sorted(str(run.relative_to(tmp_path / "out")) for run in results) == sorted(NAMES)
    assert {(result["workers"], len(result["restarts"])) for result in results.values()} == {(2, 0)}
    assert cli.main(["study", str(file), "--data.path", str(image_folder), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "table.md").read_text().count("2 of 2") == 2
    assert {run: json.loads((run / "result.json").read_text()) for run in results} == results


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("framework", "srun", "environment"),
    [
        ("torch", [], {}),
        ("torch", ["--mpi=pmix"], ALONE),  # Horovod starts, and nobody finds anybody
        ("keras", ["--mpi=pmix"], ALONE),
    ],
)
def test_tasks_that_find_themselves_alone_are_refused(
    framework, srun, environment, cluster, recipe, image_folder, tmp_path
):
    options = ["--framework", framework, "--config", recipe, "--data.path", image_folder, "--run", tmp_path / "run"]
    command = list(map(str, ["srun", "-N2", "-n2", *srun, BIN / "hvd-imagenet", "train", *options]))
    start = time.monotonic()
    done = subprocess.run(command, env=cluster.environment(**environment), capture_output=True, text=True, timeout=90)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("srun: ")]
    assert said == [
        "hvd-imagenet: error: srun: has started 2 tasks, each of which finds itself alone; give srun --mpi=pmix, or "
        "start the workers by mpirun in the allocation (launch/slurm/train.sbatch does)"
    ]
    assert time.monotonic() - start < 60
    assert not (tmp_path / "run").exists()
