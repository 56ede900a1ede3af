"""Horovod for GPUs, compiled with NCCL by launch/install.sh; it takes a GPU to show that it runs on one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from debian import unpacked
from jobs import outside

ROOT = Path(__file__).parents[1]
FOLDERS, FILES = ("hvd_imagenet", "launch"), ("LICENSE", "README.md", "pyproject.toml", "setup.py")  # of a checkout
GIB = 2**30
NEEDED_GIB = 20  # an environment with CUDA's libraries has 6, pip's downloads have 4, CUDA 12's packages 4
# That of Debian's nvcc has fixed places, at which nothing is.
PROFILE = """
PATH += $(_HERE_):$(_HERE_)/../../../bin:
INCLUDES += "-I$(_HERE_)/../include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(_HERE_)/../lib64"
"""


def run(*command, **environment) -> subprocess.CompletedProcess:
    """Output and errors together."""
    given = {**outside(), **environment}
    given.pop("PYTHONPATH", None)  # of the tests' own environment
    command = list(map(str, command))
    return subprocess.run(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def folder(tmp_path):
    """With room for CUDA, and gone in the end."""
    free = shutil.disk_usage(tmp_path).free / GIB
    if free < NEEDED_GIB:
        pytest.skip(f"{tmp_path}: {free:.0f} GiB free, {NEEDED_GIB} are needed")
    yield tmp_path
    shutil.rmtree(tmp_path)


def pip_settings(requirement: str) -> dict[str, str]:
    """Those under which pip finds a framework with CUDA: this machine's own, or the ones that pip comes with."""
    plain = {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    for settings in ({}, plain):
        command = [*pip, "--report", "-", "-c", ROOT / "launch/constraints.txt", requirement]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
        if done.returncode == 0 and "nvidia-nccl-cu" in str(json.loads(done.stdout)["install"][0]["metadata"]):
            return settings
    pytest.skip(f"pip finds no {requirement} with CUDA: {(done.stderr.splitlines() or ['a build for CPUs'])[-1]}")


def nvcc_12(folder: Path) -> Path:
    """The folder of CUDA 12's nvcc, with all that it needs: Debian's, of which nothing is installed."""
    try:
        packages = ("nvidia-cuda-toolkit", "nvidia-cuda-dev", "libcudart12", "libcu++-dev")
        root = unpacked(folder, "trixie main non-free", *packages)
    except OSError as error:
        pytest.skip(f"no nvcc of CUDA 12: {error}")
    home = root / "usr/lib/nvidia-cuda-toolkit"
    (home / "include").symlink_to("../../include")
    (home / "lib64").symlink_to("../x86_64-linux-gnu")
    (home / "nvvm").mkdir()
    (home / "nvvm/libdevice").symlink_to("../libdevice")
    for name in ("gcc", "g++", "nvcc.profile"):  # of Debian's own: they choose among its compilers
        (home / "bin" / name).unlink()
    (home / "bin/nvcc.profile").write_text(PROFILE)
    return home / "bin"


def libraries(path: Path) -> dict[str, Path]:
    """Where each of a library's own needs is found."""
    told = run("ldd", path, LD_LIBRARY_PATH="").stdout
    return {name: Path(found).resolve() for name, found in re.findall(r"^\s*(\S+) => (\S+)", told, re.M)}


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.parametrize(
    ("frameworks", "requirement", "name", "part"),
    [("torch", "torch", "PyTorch", "torch"), ("keras", "tensorflow[and-cuda]", "TensorFlow", "tensorflow")],
)
def test_horovod_is_compiled_with_nccl(frameworks, requirement, name, part, folder):
    settings = pip_settings(requirement)
    checkout, venv = folder / "checkout", folder / "venv"
    for each in FOLDERS:
        shutil.copytree(ROOT / each, checkout / each, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for each in FILES:
        shutil.copy(ROOT / each, checkout)
    settings |= {
        "VENV": str(venv),
        "HVD_IMAGENET_CACHE": str(folder / "cache"),
        "PIP_NO_CACHE_DIR": "1",
        "TMPDIR": str(folder),
    }
    if frameworks == "keras":
        settings["PATH"] = f"{nvcc_12(folder / 'cuda')}:{os.environ['PATH']}"
    done = run("bash", checkout / "launch/install.sh", "--gpu", "--frameworks", frameworks, **settings)
    assert done.returncode == 0, done.stdout

    told = run(venv / "bin/horovodrun", "--check-build").stdout
    operations = told.partition("Available Tensor Operations:")[2]
    assert f"[X] {name}" in told and all(f"[X] {kind}" in operations for kind in ("NCCL", "MPI", "Gloo")), told
    packages = next((venv / "lib").glob("python*/site-packages"))
    (built,) = (packages / "horovod" / part).glob("mpi_lib*.so")
    found = {name: path for name, path in libraries(built).items() if name.startswith(("libnccl", "libcudart"))}
    own = packages / "nvidia"  # not what the machine may have, too
    assert "libnccl.so.2" in found and all(path.is_relative_to(own) for path in found.values()), found
