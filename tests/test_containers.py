"""What goes with containers, without one: words about shared memory, keys of an ssh server, Apptainer's launcher."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from jobs import outside

ROOT = Path(__file__).parents[1]

# What apptainer.sh asks of Apptainer; it shows its options, and runs the command on the host, in the folder asked for.
APPTAINER = """#!/bin/bash
[ "$1" = exec ] && shift
options=
while [[ $1 == -* ]]; do
    case $1 in --nv) options+="$1 "; shift ;; *) options+="$1 $2 "; [ "$1" = --pwd ] && cd "$2"; shift 2 ;; esac
done
echo "apptainer $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE: $options$1 NCCL_DEBUG=$NCCL_DEBUG" >&2
shift
exec "$@"
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(*command, **environment):
    given = {**outside(), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=given)


@pytest.mark.parametrize(("mebibytes", "warned"), [(64, True), (511, True), (512, False)])
def test_little_shared_memory_is_told_before_the_command(tmp_path, mebibytes, warned):
    script(
        tmp_path / "df",
        f'#!/bin/sh\n[ "$*" = "-m --output=size /dev/shm" ] && printf "1M-blocks\\n    {mebibytes}\\n"\n',
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run(ROOT / "docker" / "entrypoint.sh", "sh", "-c", 'echo "$1"; exit 9', "sh", "one word", PATH=path)
    assert (done.returncode, done.stdout) == (9, "one word\n")
    advice = f"hvd_imagenet: /dev/shm has {mebibytes} MiB; "
    assert done.stderr.startswith(advice) and "--shm-size=1g" in done.stderr if warned else not done.stderr


def test_no_ssh_server_without_keys(tmp_path):
    done = run(ROOT / "docker" / "sshd.sh", HOME=str(tmp_path))
    assert done.returncode == 2 and "~/.ssh/authorized_keys: is missing or empty" in done.stderr


def test_apptainer_trains_on_all_workers(tmp_path, recipe, image_folder):
    """Under a real mpirun, as root and with more workers than slots where it is so; a script stands for Apptainer."""
    (tmp_path / "image.sif").touch()
    given = {"IMAGE": "image.sif", "WORKERS": "2", "BIND": "/data,/scratch", "NCCL_DEBUG": "WARN"}
    given |= {"APPTAINER": str(script(tmp_path / "apptainer", APPTAINER))}
    given |= {
        f"OMPI_{name}": "1"
        for name in ("ALLOW_RUN_AS_ROOT", "ALLOW_RUN_AS_ROOT_CONFIRM", "MCA_rmaps_base_oversubscribe")
    }
    command = ["env", "-C", tmp_path, "bash", ROOT / "launch" / "apptainer.sh"]
    done = run(*command, "--config", recipe, "--data.path", image_folder, "--run", "run", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["workers"] == 2
    gpu = "--nv " * os.path.exists("/dev/nvidiactl")
    options = f"{gpu}--bind {tmp_path},/data,/scratch --pwd {tmp_path} image.sif NCCL_DEBUG=WARN"
    for rank in (0, 1):
        assert f"apptainer {rank} of 2: {options}" in done.stderr

    done = run(*command, "--config", recipe, "--data.path", "nowhere", "--run", "other", **given)
    assert done.returncode == 3 and done.stderr.splitlines()[-1].startswith("job.sh: ")


def test_a_missing_image_is_named(tmp_path):
    done = run("env", "-C", tmp_path, "bash", ROOT / "launch" / "apptainer.sh", "--run", "run")
    assert done.returncode == 2 and done.stderr.startswith("apptainer.sh: IMAGE: hvd_imagenet.sif; is not there")


@pytest.mark.parametrize("name", ["launch/apptainer.sh"])
def test_launchers_explain_themselves_in_few_lines(name):
    lines = (ROOT / name).read_text().splitlines()
    assert len(lines) < 50 and "#   BIND " in (ROOT / name).read_text()
    done = run("bash", ROOT / name, "--help")
    assert done.returncode == 0 and done.stdout.splitlines()[0] == lines[1].removeprefix("# ")
