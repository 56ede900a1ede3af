"""What the tests share: small data sets, and running a test on several Horovod workers.

A test with a parameter named ``workers`` runs under horovodrun on that many: the process that meets it starts the same
test again on each worker, where its body runs, and passes if it passes on all of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_sets import packed_folder
from hosts import Hosts, require_hosts
from jobs import ALONE, gloo, outside
from PIL import Image
from remote_sets import QUICK, SAMPLES
from runs import RECIPE
from servers import WebServer

from hvd_imagenet.data.remote.caching import Caching

ON_A_WORKER = "HOROVOD_RANK" in os.environ
LAUNCH_SECONDS = 180
MOST_WORKERS = 4
if not ON_A_WORKER:
    os.environ.update(ALONE)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it


def horovodrun(workers: int, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command on so many workers of this machine; output and errors together, as text; 124: it took too long."""
    try:
        return subprocess.run(
            [*map(str, gloo(workers)), *command],
            env={**outside(), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LAUNCH_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(late.cmd, 124, f"{(late.output or b'').decode()}\n{late}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if ON_A_WORKER or not given(pyfuncitem, "workers"):
        return None
    folder, workers = pyfuncitem.funcargs["session_folder"], given(pyfuncitem, "workers")
    if not passed_in_one_launch(pyfuncitem, folder):
        on_workers(workers, f"{pyfuncitem.path}::{pyfuncitem.name}", folder)
    return True


def given(item: pytest.Item, parameter: str):
    """The value of a test's parameter; None: it has none of that name."""
    return item.callspec.params.get(parameter) if hasattr(item, "callspec") else None


def on_workers(workers: int, test: str, folder: Path) -> None:
    """Run one test on so many workers, in this session's folder; fails unless it passes on all."""
    if workers > MOST_WORKERS:
        pytest.fail(f"{workers} workers: a parameter named workers starts as many; name one that only counts otherwise")
    done = horovodrun(workers, sys.executable, "-m", "pytest", test, TEST_FOLDER=str(folder))
    if done.returncode != 0 or done.stdout.count("1 passed") != workers:
        pytest.fail(f"on {workers} workers:\n{done.stdout}", pytrace=False)


def passed_in_one_launch(item: pytest.Item, folder: Path) -> bool:
    """Whether a test passed on all workers, run there with all that belong together with it, since a launch takes long.

    These are the tests of a file marked ``one_launch``, on as many workers and in the same framework, of which only one
    fits into a process. Where it has not passed, or not come to be run, it is to be run alone.
    """
    if not item.get_closest_marker("one_launch"):
        return False
    kind = item.path.stem, given(item, "workers"), given(item, "framework")
    reports = folder / "launches" / "-".join(map(str, kind))
    if not reports.exists():
        reports.mkdir(parents=True)
        marked = [other for other in item.session.items if other.get_closest_marker("one_launch")]
        tests = [other for other in marked if other.path == item.path]
        tests = [o for o in tests if (o.path.stem, given(o, "workers"), given(o, "framework")) == kind]
        names = [f"{other.path}::{other.name}" for other in tests]
        places = {"TEST_FOLDER": str(folder), "TEST_REPORTS": str(reports)}
        horovodrun(kind[1], sys.executable, "-m", "pytest", "-x", *names, **places)
    passed = [path.read_text().splitlines() for path in reports.iterdir()]
    return len(passed) == kind[1] and all(item.name in names for names in passed)


def pytest_runtest_logreport(report):
    """On a worker: write down what has passed."""
    if "TEST_REPORTS" in os.environ and report.when == "call" and report.passed:
        with (Path(os.environ["TEST_REPORTS"]) / os.environ["HOROVOD_RANK"]).open("a") as file:
            file.write(report.nodeid.rpartition("::")[2] + "\n")


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


@pytest.fixture
def own_images(image_folder, tmp_path) -> Path:
    """A copy of these images, to be changed."""
    return shutil.copytree(image_folder, tmp_path / "images", ignore=shutil.ignore_patterns(".hvd_imagenet"))


@pytest.fixture(scope="session")
def image_shards(session_folder, image_folder) -> Path:
    """The same images, packed: those for training in 17 shards of 3, the last of 2."""
    return packed_folder(image_folder, session_folder / "shards", shard_bytes=2000)


@pytest.fixture
def two(tmp_path) -> Iterator[Hosts]:
    """Two hosts."""
    require_hosts()
    (tmp_path / "hosts").mkdir()
    with Hosts(2, tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture(scope="session")
def packed(tmp_path_factory) -> Path:
    """120 training and 30 validation images in shards of 20 kB, of some 7 samples each."""
    root = tmp_path_factory.mktemp("packed")
    images = make_image_folder(root / "images", SAMPLES, 30)
    return packed_folder(images, root / "set", shard_bytes=5500)


@pytest.fixture
def server(packed):
    """Serves `packed`."""
    with WebServer(packed) as running:
        yield running


@pytest.fixture
def cache(tmp_path) -> Caching:
    """A cache of its own, far larger than `packed`, and little patience."""
    return Caching(tmp_path / "cache", 2**20, QUICK)
