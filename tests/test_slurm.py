"""Jobs of a real two-node Slurm: what launch/slurm/ makes of limits, requeues and failures; and tasks left alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import ALONE, Job, steps_saved, until
from runs import RECIPE, closest, metrics, weights
from slurm import Cluster, require_slurm
from studies import NAMES, write_study

from hvd_imagenet import cli
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.joining import require_company

ROOT = Path(__file__).parents[1]
TRAIN, ARRAY, ELASTIC = (ROOT / "launch" / "slurm" / f"{name}.sbatch" for name in ("train", "array", "elastic"))
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


STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.mark.parametrize(
    ("size", "environment"),
    [
        (None, STEP),
        (1, STEP),
        (1, {**STEP, "PMIX_RANK": "0"}),  # srun --mpi=pmix, and an MPI that does not know PMIx
        (1, {**STEP, "SLURM_STEP_NUM_TASKS": "2"}),
    ],
)
def test_one_of_several_tasks_is_not_to_be_alone(size, environment, monkeypatch):
    slurm(monkeypatch, environment)
    with pytest.raises(SettingsError, match=f"srun: has started {environment['SLURM_STEP_NUM_TASKS']} tasks"):
        require_company(size)


@pytest.mark.parametrize(
    ("size", "environment"),
    [
        (1, {}),
        (1, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}),  # a batch script's own process, in an allocation for four
        (1, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}),
        (1, {**STEP, "OMPI_COMM_WORLD_SIZE": "1"}),  # mpirun -np 1, on another node than mpirun's
        (1, {**STEP, "HOROVOD_SIZE": "1"}),
        (1, {**STEP, "SLURM_PTY_PORT": "1234"}),  # a shell of srun --pty
        (None, {**STEP, "PMIX_RANK": "0"}),
        (None, {**STEP, "PMI_RANK": "0"}),
        (4, STEP),
    ],
)
def test_one_worker_is_enough_where_one_was_started(size, environment, monkeypatch):
    slurm(monkeypatch, environment)
    require_company(size)


def slurm(monkeypatch, environment):
    """What a task of Slurm finds in its environment, in the place of what this process has."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "PMI", "OMPI_", "HOROVOD_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


TASK = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "1"}


@pytest.mark.parametrize("script", [TRAIN, ARRAY, ELASTIC])
def test_a_batch_script_explains_itself(script):
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "sbatch --" in done.stdout and "CHECKOUT" in TRAIN.read_text()
    assert "Environment: " in done.stdout and "#" not in done.stdout
    assert len(script.read_text().splitlines()) < 50


@pytest.mark.parametrize(
    ("script", "environment", "message"),
    [
        (TRAIN, {}, "train.sbatch: is a batch script: start it by sbatch"),
        (TRAIN, {"SLURM_GPUS_ON_NODE": "8"}, "train.sbatch: n1: has 2 tasks with 8 GPUs per node; give as many --nt"),
        (
            TRAIN,
            {"SLURM_GPUS_ON_NODE": "2", "SLURM_TASKS_PER_NODE": "2(x2),1,2"},
            "train.sbatch: n3: has 1 task with 2 GPUs per node; give as many",
        ),
        (
            TRAIN,
            {"SLURM_GPUS_ON_NODE": "2", "SLURM_TASKS_PER_NODE": "2(x3),12"},
            "train.sbatch: n4: has 12 tasks with 2 GPUs per node; give as many",
        ),
        (TRAIN, {"SLURM_SUBMIT_DIR": "/elsewhere"}, "train.sbatch: /elsewhere/launch/job.sh: is not there"),
        (ARRAY, {"SLURM_JOB_ID": "1"}, "array.sbatch: is a batch script for job arrays"),
        (
            ARRAY,
            {**TASK, "RECIPES": "a/x.yaml x b"},
            "array.sbatch: RECIPES: x is the name of two, whose runs would be in",
        ),
        (ELASTIC, {}, "elastic.sbatch: is a batch script: start it by sbatch"),
        (ELASTIC, {"SLURM_JOB_ID": "1"}, "elastic.sbatch: the workers of a node are not known; give --ntasks-per-node"),
    ],
)
def test_what_is_wrong_before_the_job_is_said_in_one_line(script, environment, message, tmp_path):
    done = subprocess.run(
        ["bash", script],
        env=in_a_job(tmp_path, environment) if environment else known(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("options", [["--run", "x"], ["--epochs", "3", "--run=x"]])
def test_the_tasks_of_an_array_are_not_to_share_a_folder(options, tmp_path):
    command, environment = ["bash", ARRAY, *options], in_a_job(tmp_path, TASK)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = "array.sbatch: --run: would be one folder for all tasks; give RUNS=FOLDER\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_a_task_of_a_study_trains_what_the_study_says(tmp_path):
    told = ["--config", "a b/arm/settings.yaml", "--seed", "2", "--run", "a b/arm/seed-2", "--resume", "auto"]
    script = '#!/bin/bash\nprintf "%s\\n" "$@" >>{}\n{}'
    says = " ".join(["[ -e done ] || printf '%s\n'", *map(shlex.quote, told)])
    for name, text in (("hvd-imagenet", script.format("asked", says)), ("trains", script.format("trained", ""))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = in_a_job(tmp_path, {**TASK, "STUDY": "warmup", "RUNS": "a b", "LAUNCHER": "trains", "VENV": "none"})
    command = ["bash", ARRAY, "--data.path", "x y"]
    assert subprocess.run(command, env=environment, cwd=tmp_path).returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["study", "warmup", "-o", "a b", "--data.path", "x y", "--task", "1"]
    trained = (tmp_path / "trained").read_text().splitlines()
    assert trained[:2] == ["hvd-imagenet", "train"] and trained[-len(told) :] == told
    (tmp_path / "done").touch()
    assert subprocess.run(command, env=environment, cwd=tmp_path).returncode == 0
    assert (tmp_path / "trained").read_text().splitlines() == trained  # it has a result: there is nothing to do


def known():
    """The environment of no job."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}


def in_a_job(folder, environment):
    """The environment of a job on four nodes; scontrol, which stands in the folder, writes there what it is asked."""
    said = f'[ "$1" = show ] && printf "n%s\\n" 1 2 3 4 || echo "$@" >>"{folder}/asked"'
    (folder / "scontrol").write_text(f"#!/bin/bash\n{said}\n")
    (folder / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": "2(x4)", "SLURM_JOB_NODELIST": "n[1-4]"}
    places = {"SLURM_SUBMIT_DIR": str(ROOT), "VENV": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}
    return {**known(), **job, **places, **environment}


TRAINS = """#!/bin/bash
while [ "$1" != --run ]; do shift; done
mkdir -p "$2" && echo begins >>started || exit 9
[ -n "$SLOW" ] && exec sleep 10
echo '{' >"$2/status.json"
until [ -e "$2/STOP" ]; do sleep 0.1; done
sleep 1 # it saves
printf '{\n "status": "stopped",\n "exit_code": 75\n}\n' >"$2/status.json"
exit 75
"""


@pytest.mark.parametrize("options", [[], ["--run", "b"], ["--run=b"]])
@pytest.mark.parametrize(
    ("by_a_person", "slow", "requeued"), [(False, "", True), (True, "", False), (False, "yes", True)]
)
def test_a_job_is_requeued_where_its_time_has_stopped_it(by_a_person, slow, requeued, options, tmp_path):
    """Not where a person has and the time is up during that save; but also where it had not begun yet."""
    (tmp_path / "trains").write_text(TRAINS)
    (tmp_path / "trains").chmod(0o755)
    given = in_a_job(tmp_path, {"LAUNCHER": "trains", "SLOW": slow, "RUN": "a"})
    job = subprocess.Popen(["bash", TRAIN, *options], env=given, cwd=tmp_path, stderr=subprocess.DEVNULL)
    run = tmp_path / ("b" if options else "a")
    until(((tmp_path / "started") if slow else (run / "status.json")).exists)
    if by_a_person:
        (run / "STOP").touch()
        time.sleep(0.3)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 75
    assert ((tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else "") == "requeue 1\n" * requeued


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("2(x4)", ""),
        (
            "2(x3),1",
            "train.sbatch: warning: n4: has 1 task, the first node 2; give --ntasks-per-node, and all have the s",
        ),
        ("1,2,1(x2)", "train.sbatch: warning: n2: has 2 tasks, the first node 1; give"),
    ],
)
def test_uneven_tasks_without_gpus_are_told(tasks, said, tmp_path):
    given = in_a_job(tmp_path, {"SLURM_TASKS_PER_NODE": tasks})
    script = TRAIN.with_name("even-tasks")
    done = subprocess.run(["bash", script], env=given, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.startswith(said) and len(done.stderr.splitlines()) == bool(said)
