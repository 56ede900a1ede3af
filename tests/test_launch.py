"""The scripts in launch/: the compiler wrapper, and what they say of wrong options."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"


def run(*command, **environment):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(("pause", "passed_on"), [(0.05, False), (1.3, True)])
def test_a_signal_that_comes_twice_is_one_request_within_a_second(tmp_path, pause, passed_on):
    """What job.sh runs here is no training job, but has its words; it ends by itself after 2.5 seconds."""
    command = ["bash", LAUNCH / "job.sh", "sleep", "2.5", "train", "--run", tmp_path]
    command[2:3] = ["bash", "-c", 'trap "exit 9" TERM; for i in {1..25}; do sleep 0.1; done', "job"]
    job = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
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


def test_missing_packages_without_root_are_named(tmp_path):
    """Where there is neither apt-get nor sudo, the missing packages are named."""
    for name in ("bash", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = run(LAUNCH / "system-packages", "no-such-package", PATH=str(tmp_path))
    assert done.returncode == 1 and "error: system packages are missing: no-such-package" in done.stderr
    assert run(LAUNCH / "system-packages").returncode == 0
