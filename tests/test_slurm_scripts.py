"""The batch scripts without Slurm: what they refuse, pass on and requeue; and tasks that are left alone."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from jobs import until

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.joining import require_company

ROOT = Path(__file__).parents[1]
TRAIN, ARRAY, ELASTIC = (ROOT / "launch" / "slurm" / f"{name}.sbatch" for name in ("train", "array", "elastic"))
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
