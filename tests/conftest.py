"""What the tests share: small data sets, and running a test on several Horovod workers.

A test with a parameter named ``workers`` runs under horovodrun on that many: the process that meets it starts the same
test again on each worker, where its body runs, and passes if it passes on all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jobs import gloo
from PIL import Image
from runs import RECIPE

ON_A_WORKER = "HOROVOD_RANK" in os.environ
LAUNCH_SECONDS = 180


def horovodrun(workers: int, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command on so many workers of this machine; output and errors together, as text."""
    return subprocess.run(
        [*map(str, gloo(workers)), *command],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LAUNCH_SECONDS,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    workers = getattr(pyfuncitem, "callspec", None) and pyfuncitem.callspec.params.get("workers")
    if not workers or ON_A_WORKER:
        return None
    on_workers(workers, f"{pyfuncitem.path}::{pyfuncitem.name}", pyfuncitem.funcargs["session_folder"])
    return True


def on_workers(workers: int, test: str, folder: Path) -> None:
    """Run one test on so many workers, in this session's folder; fails unless it passes on all."""
    done = horovodrun(workers, sys.executable, "-m", "pytest", test, TEST_FOLDER=str(folder))
    if done.returncode != 0 or done.stdout.count("1 passed") != workers:
        pytest.fail(f"on {workers} workers:\n{done.stdout}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory) -> Path:
    """One folder for all tests, on all workers too."""
    return Path(os.environ["TEST_FOLDER"]) if ON_A_WORKER else tmp_path_factory.mktemp("session")


@pytest.fixture
def shared(session_folder) -> Path:
    """Where tests leave runs for each other, on all workers too."""
    folder = session_folder / "runs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def recipe(tmp_path) -> str:
    """A file with the settings of ``runs.RECIPE``."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return str(tmp_path / "recipe.yaml")


@pytest.fixture
def walks(shared, image_folder, session_folder) -> Path:
    """The folder of the runs of test_run.py: on-1, on-2, on-3 and resumed; made now where they are not there."""
    made_by = {f"on-{workers}": (workers, f"test_a_run[{workers}]") for workers in (1, 2, 3)}
    made_by["resumed"] = 2, "test_a_run_in_two_parts[2]"
    for run, (workers, test) in made_by.items():
        if not (shared / run).exists():
            on_workers(workers, f"{Path(__file__).with_name('test_run.py')}::{test}", session_folder)
    return shared


def make_image_folder(root: Path, train: int, val: int, classes: int = 2, size: tuple[int, int] = (24, 20)) -> Path:
    """A data set of class folders with distinct random JPEGs; sizes vary by a few pixels from image to image."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            label = number % classes
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            height, width = size[0] + number % 5, size[1] + number % 3
            coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
            coarse[..., label] = 255  # something to learn
            Image.fromarray(coarse).resize((width, height)).save(folder / f"{number:05d}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def image_folder(session_folder) -> Path:
    """50 training and 23 validation images in two classes."""
    folder = session_folder / "images"
    return folder if folder.exists() else make_image_folder(folder, 50, 23)
