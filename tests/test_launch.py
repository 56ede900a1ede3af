"""The scripts in launch/: the compiler wrapper, and what they say of wrong options."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"


def run(*command, **environment):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}
    )


def program(folder, name, text):
    """A program of that name on the PATH that this returns, before all others."""
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"


def job_sh(run, first, words=("train",)):
    """What job.sh runs here is no training job, but has its words; it ends by itself after 2.5 seconds."""
    command = ["bash", "-c", f'trap "exit 9" TERM; {first}; for i in {{1..25}}; do sleep 0.1; done', "job", *words]
    whole = ["bash", LAUNCH / "job.sh", *command, "--run", run]
    return subprocess.Popen(list(map(str, whole)), stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("there", "words", "status"), [([], ["train"], 75), (["status.json"], ["train"], 75), ([], ["evaluate"], 9)]
)
def test_a_job_that_has_not_begun_ends_at_once_and_has_nothing_to_save(tmp_path, there, words, status):
    """Neither where its folder is not there yet nor where that tells of the job before; others end as they do."""
    run = tmp_path / "run"
    for name in there:
        run.mkdir()
        (run / name).write_text('{\n "exit_code": 75\n}\n')
    job = job_sh(run, ":", words)
    time.sleep(0.5)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=10)[1].splitlines()
    assert job.returncode == status and not (run / "STOP").exists()
    reason = "job.sh: stopped, exit status 75: asked to before the job had begun; there was nothing to save"
    assert said == (
        [reason]
        if status == 75
        else ["job.sh: the launcher ended with status 9, and no worker has said why; see above"]
    )


@pytest.mark.parametrize(("pause", "passed_on"), [(0.05, False), (1.3, True)])
def test_a_signal_that_comes_twice_is_one_request_within_a_second(tmp_path, pause, passed_on):
    job = job_sh(tmp_path, f'echo begun > "{tmp_path}/status.json"')
    time.sleep(0.5)
    job.send_signal(signal.SIGUSR1)
    time.sleep(pause)
    job.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    assert (tmp_path / "STOP").exists() or passed_on
    assert "the job saves and ends after the step at hand" in job.communicate(timeout=10)[1]
    assert job.returncode == (9 if passed_on else 0)
    assert not (tmp_path / "STOP").exists()


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ("-O3 -std=c++14 -c a.cc", "-O3 -std=gnu++20 -c a.cc"),
        ("-std=c++11 a.cc", "-std=gnu++20 a.cc"),
        ("-std=gnu++17 a.cc", "-std=gnu++20 a.cc"),
        ("-std=c++20 a.cc", "-std=c++20 a.cc"),
        ("-std=gnu99 a.cc", "-std=gnu99 a.cc"),
        ("-std=c++14 -D__CUDACC__ a.cc", "-std=c++14 -D__CUDACC__ a.cc"),
        ("-std=c++14 -D__CUDACC__=1 a.cc", "-std=c++14 -D__CUDACC__=1 a.cc"),
        ("-DTENSORFLOW_VERSION=2021000000 x/mpi_ops.cc", "-DTENSORFLOW_VERSION=2021000000 x/mpi_ops.cc"),
        ("-DTENSORFLOW_VERSION=2021000000 x/xla_mpi_ops.cc", "-DTENSORFLOW_VERSION=2005000000 x/xla_mpi_ops.cc"),
    ],
)
def test_the_compiler_wrapper(given, passed_on):
    done = run(LAUNCH / "horovod-cxx", *given.split(), HVD_IMAGENET_CXX="echo")
    assert (done.returncode, done.stdout) == (0, passed_on + "\n")


def test_tensorflows_operations_get_the_function_that_is_missing_for_a_gpu():
    header = f" -include {LAUNCH / 'horovod-stream.h'}"
    for given, more in [
        ("-DHAVE_CUDA=1 -c x/tensorflow/mpi_ops.cc", header),
        ("-c x/tensorflow/mpi_ops.cc", ""),
        ("-DHAVE_CUDA=1 -c x/tensorflow/xla_mpi_ops.cc", ""),
        ("-DHAVE_CUDA=1 -c x/torch/mpi_ops_v2.cc", ""),
    ]:
        assert run(LAUNCH / "horovod-cxx", *given.split(), HVD_IMAGENET_CXX="echo").stdout == f"{given}{more}\n"


def test_the_compiler_wrapper_keeps_words_together_and_passes_the_status_on():
    assert run(LAUNCH / "horovod-cxx", "-DX=a b", HVD_IMAGENET_CXX="echo").stdout == "-DX=a b\n"
    assert run(LAUNCH / "horovod-cxx", HVD_IMAGENET_CXX="false").returncode == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--framework", "torch"], "error: unknown option --framework"),
        (["--frameworks", "jax"], "error: --frameworks jax\n       Give torch, keras, or torch,keras."),
        (["--frameworks"], "error: --frameworks needs a value"),
        (["--gpu", "--frameworks", "torch,keras"], "error: PyTorch needs CUDA 13 and TensorFlow CUDA 12"),
    ],
)
def test_wrong_options_of_the_installer(options, message):
    done = run("bash", LAUNCH / "install.sh", *options)
    assert done.returncode == 1 and message in done.stderr


@pytest.mark.parametrize(
    ("says", "found"), [("exit 127", "none"), ("echo Cuda compilation tools, release 13.0, V1", "13.0")]
)
def test_tensorflow_on_a_gpu_needs_the_compiler_of_its_own_cuda(tmp_path, says, found):
    (tmp_path / "nvcc").write_text(f"#!/bin/sh\n{says}\n")
    (tmp_path / "nvcc").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VENV": str(tmp_path / "venv")}
    done = run("bash", LAUNCH / "install.sh", "--gpu", "--frameworks", "keras", **environment)
    assert done.returncode == 1 and not (tmp_path / "venv").exists()
    assert f"error: nvcc on the PATH: {found}; TensorFlow needs CUDA 12's\n       Install the CUDA" in done.stderr


def test_the_installer_explains_itself():
    done = run("bash", LAUNCH / "install.sh", "--help")
    assert done.returncode == 0 and "--frameworks LIST" in done.stdout and "HVD_IMAGENET_CACHE" in done.stdout


@pytest.mark.parametrize(
    ("daemon", "worker", "killed"), [("orted", 3, True), ("orted", 0, False), ("mpirun", 3, False)]
)
def test_the_daemon_of_a_worker_that_fails_is_not_left_for_long(tmp_path, daemon, worker, killed):
    """A shell stands for the daemon, and 20 seconds are over at once."""
    path = program(tmp_path, "timeout", "exit 124")
    shutil.copy("/bin/bash", tmp_path / daemon)
    script = f"bash {LAUNCH / 'mpirun' / 'worker'} sh -c 'exit {worker}'; echo $?; read -t 1 <> <(:); exit 5"
    done = run(tmp_path / daemon, "-c", script, PATH=path)
    assert done.stdout == f"{worker}\n" and done.returncode == (-signal.SIGKILL if killed else 5)


MPIRUN, APPTAINER = LAUNCH / "mpirun.sh", LAUNCH / "apptainer.sh"


def told_mpirun(script, folder, **environment):
    """What a script gives to mpirun, an argument to a line, and NCCL's interface last."""
    path = program(folder, "mpirun", 'printf "%s\\n" "$@" "NCCL $NCCL_SOCKET_IFNAME"')
    (folder / "hvd_imagenet.sif").touch()
    given = {"PATH": path, "HOSTS": "localhost:2", "IMAGE": str(folder / "hvd_imagenet.sif"), **environment}
    return run("bash", script, "--run", folder / "run", **given)


@pytest.mark.parametrize("script", [MPIRUN, APPTAINER])
def test_what_both_scripts_tell_mpirun(script, tmp_path):
    """Which variables go to all workers, the way to the hosts, and the interface, for NCCL, too."""
    given = {"AWS_PROFILE": "a", "UCX_NET_DEVICES": "b", "CUDA_LAUNCH_BLOCKING": "1", "MINE": "c", "FORWARD": "MINE"}
    given |= {
        "OTHER": "d",
        "SSH_PORT": "2222",
        "SSH_KEY": "/key",
        "NETWORK_INTERFACE": "lo",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    lines = told_mpirun(script, tmp_path, **given).stdout.splitlines()
    pairs = list(zip(lines, lines[1:], strict=False))
    ssh = "-o BatchMode=yes -o StrictHostKeyChecking=accept-new -p 2222 -i /key"
    assert ("plm_rsh_args", ssh) in pairs and ("btl_tcp_if_include", "lo") in pairs and lines[-1] == "NCCL lo"
    forwarded = {value for option, value in pairs if option == "-x"}
    assert {"PATH", "HVD_IMAGENET_STATUS", *given} - forwarded == {
        "FORWARD",
        "OTHER",
        "SSH_PORT",
        "SSH_KEY",
        "NETWORK_INTERFACE",
    }
    assert "NCCL_SOCKET_IFNAME" in forwarded and "OTHER" not in forwarded
    of_slurm = told_mpirun(script, tmp_path, SLURM_JOB_ID="1", **given).stdout.splitlines()
    assert set(lines) - set(of_slurm) == {"CUDA_VISIBLE_DEVICES"}


@pytest.mark.parametrize("script", [MPIRUN, APPTAINER])
def test_nccl_is_told_of_no_network_and_keeps_what_it_was_told(script, tmp_path):
    said = told_mpirun(script, tmp_path, NETWORK_INTERFACE="127.0.0.0/8").stdout
    assert said.endswith("NCCL \n") and "oob_tcp_if_include\n127.0.0.0/8\n" in said
    said = told_mpirun(script, tmp_path, NETWORK_INTERFACE="lo", NCCL_SOCKET_IFNAME="ib0").stdout
    assert said.endswith("NCCL ib0\n")


@pytest.mark.parametrize("script", [MPIRUN, APPTAINER])
def test_a_key_that_mpirun_cannot_hand_on_is_refused(script, tmp_path):
    done = told_mpirun(script, tmp_path, SSH_KEY="/my key")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{script.name}: SSH_KEY: /my key; mpirun cannot hand on a space; ")


def test_missing_packages_without_root_are_named(tmp_path):
    """Where there is neither apt-get nor sudo, the missing packages are named."""
    for name in ("bash", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = run(LAUNCH / "system-packages", "no-such-package", PATH=str(tmp_path))
    assert done.returncode == 1 and "error: system packages are missing: no-such-package" in done.stderr
    assert run(LAUNCH / "system-packages").returncode == 0
