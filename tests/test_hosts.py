"""Jobs on several hosts by launch/horovodrun.sh and launch/mpirun.sh: see ``hosts.py`` for what a host is here."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from data_sets import Here
from debian import require_packages
from hosts import LAUNCHER, Hosts, HostsJob, clocks_off, require_hosts
from jobs import has_saved, until
from runs import closest, metrics, train, weights

from hvd_imagenet.data.pack import Options, pack
from hvd_imagenet.data.sources.fashion_mnist import CLASSES, FashionMnist
from hvd_imagenet.data.store import open_store
from hvd_imagenet.version import version

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]
SCRIPTS = ["horovodrun.sh", "mpirun.sh"]
# A minibatch of 7 micro-batches of 32: uneven shares on 2 and on 4 hosts. 3 epochs of 640 images take 9 steps.
OPTIONS = ["--config", "fashion_mnist", "--precision", "float64", "--batch.global_size", "224"]
OPTIONS += ["--data.train_samples", "640", "--log.every_steps", "1"]
STEPS = 9
ENDLESS = ["--epochs", "100000", "--checkpoint.every_epochs", "null", "--evaluate.every_epochs", "100000"]
ENDLESS += ["--checkpoint.every_steps", "4"]
STALL_SECONDS, TELL_SECONDS = 8, 10  # the latter for a busy machine
LAUNCHER_SECONDS = 60  # for mpirun, which cannot let go of a host that it does not reach
PATIENCE = 600  # for a job that does end, on a busy machine too
BAD_SECONDS = 45  # within which bad input is to be told, on a busy machine too


@pytest.fixture(scope="module", params=[2, 4])
def many(request, tmp_path_factory):
    """Two and four hosts."""
    require_hosts()
    with Hosts(request.param, tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def images(session_folder):
    return some_of_fashion_mnist(session_folder / "fashion-mnist")


def some_of_fashion_mnist(folder: Path, **options) -> Path:
    """Its first 640 images for training and 64 for validation, packed."""
    require_packages("dataset-fashion-mnist")
    source = FashionMnist()
    source.splits = {split: source.splits[split][:count] for split, count in (("train", 640), ("val", 64))}
    pack(source, folder, Here(), Options(**options), max_rejects=0)
    assert set(open_store(folder, "train").labels) == set(range(len(CLASSES)))
    return folder


@pytest.fixture(scope="session")
def alone(session_folder, images):
    """The folders of one run per framework on this machine alone."""
    for framework in ("torch", "keras"):
        run = session_folder / f"alone-{framework}"
        assert train("fashion_mnist", images, run, *OPTIONS[2:], "--framework", framework) == 0
    return lambda framework: session_folder / f"alone-{framework}"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_several_hosts_take_the_same_steps_as_one(many, script, framework, images, alone, tmp_path):
    """Two are named in a list, four in a file."""
    named = {}
    if len(many.names) == 4:
        (tmp_path / "hosts.txt").write_text("".join(f"{name} slots=1\n" for name in many.names))
        named = {"HOSTS": "", "HOSTFILE": str(tmp_path / "hosts.txt")}
    job = HostsJob(many, script, tmp_path / "run", *OPTIONS, "--data.path", images, "--framework", framework, **named)
    assert job.end(PATIENCE) == 0, job.log()
    status = job.status()
    assert [worker["host"] for worker in status["workers"]] == many.names
    one = alone(framework)
    for kind, count in (("step", STEPS), ("eval", 3)):
        losses = [[event["loss"] for event in metrics(run, kind)] for run in (one, job.run)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-9) and len(losses[0]) == count
    ones, others = weights(one, STEPS), weights(job.run, STEPS)
    for kind in ones:
        for name in ones[kind]:
            assert closest({name: ones[kind][name]}, {name: others[kind][name]}) < 1e-9, name
    until(lambda: not many.left(), 30)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_slow_link(two, script, recipe, image_folder, tmp_path):
    """What node2 sends and is sent goes at 1 Gbit/s, and arrives 5 ms later."""
    two.set_link_speed("node2", "1gbit", delay_ms=5)
    job = HostsJob(two, script, tmp_path / "run", "--config", recipe, "--data.path", image_folder)
    assert job.end(PATIENCE) == 0, job.log()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_host_that_is_cut_off_is_named_and_nothing_is_left_on_any_host(two, script, recipe, image_folder, tmp_path):
    options = ["--config", recipe, "--data.path", image_folder, *ENDLESS, "--faults.stall_seconds", STALL_SECONDS]
    job = HostsJob(two, script, tmp_path / "run", *options)
    until(lambda: has_saved(4)(job) or job.process.poll() is not None, PATIENCE)
    two.set_link("node2", up=False)
    start = time.monotonic()
    until(lambda: job.status()["status"] == "failed", STALL_SECONDS + TELL_SECONDS)
    assert time.monotonic() - start >= STALL_SECONDS - 2  # the last heartbeat came some time before
    assert job.end(LAUNCHER_SECONDS) == 1
    expected = f"job.sh: failed, exit status 1: worker 1 on node2 has not answered for {STALL_SECONDS} s (faults.sta"
    assert job.last_line().startswith(expected), job.log()
    until(lambda: not two.left(), 30)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_launcher_that_is_killed_leaves_nothing_on_any_host(two, script, recipe, image_folder, tmp_path):
    """Before that, mpirun has bound each worker to a core, as told."""
    options = ["--config", recipe, "--data.path", image_folder, *ENDLESS]
    job = HostsJob(two, script, tmp_path / "run", *options, BIND_TO="core")
    until(lambda: has_saved(4)(job) or job.process.poll() is not None, PATIENCE)
    cores = [len(worker.cpu_affinity()) for name in two.names for worker in two.workers(name)]
    assert cores == [1 if script == "mpirun.sh" else os.cpu_count()] * 2
    for process in two.processes(LAUNCHER):
        with suppress(psutil.NoSuchProcess):  # its parent was the first
            process.kill()
    until(lambda: not two.left(), 60)
    if script == "horovodrun.sh":  # of which the workers on other hosts hear nothing: they notice, and save
        status = job.status()
        assert status["exit_code"] == 75 and "lost its launcher; everything is saved" in status["reason"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_keeps_a_job_from_beginning_is_told_in_one_line(two, script, tmp_path):
    (tmp_path / "hosts.txt").write_text("# two\nnode1 slots=1\n\nnode2 slots=1  # the other\nnode1:2\n")
    (tmp_path / "away.txt").write_text("node1 slots=1\n10.71.0.99 slots=1\n")
    cases = [
        ({"HOSTS": "node1:1,node7:1"}, "node7: nobody knows that name; correct it"),
        ({"HOSTS": "node1:1,node1:2"}, "HOSTS; node1 is named twice; name it once with all its workers: node1:3"),
        ({"HOSTS": "node1:1,10.71.0.1:1"}, "HOSTS; node1 and 10.71.0.1, one host, is named twice"),
        ({"HOSTS": "", "HOSTFILE": tmp_path / "hosts.txt"}, "hosts.txt; node1 is named twice"),
        (
            {"HOSTS": "", "HOSTFILE": tmp_path / "away.txt"},
            "10.71.0.99: cannot be reached by ssh (ssh: connect to host",
        ),
        ({"NETWORK_INTERFACE": "ib0"}, "NETWORK_INTERFACE: ib0; launcher has no such interface, only lo, eth0"),
        ({"SSH_PORT": "23"}, "cannot be reached by ssh (ssh: connect to host node1 port 23: Connection refused)"),
    ]
    for environment, message in cases:
        refused(two, script, tmp_path, message, **environment)
    two.set_keys("node2", known=False)
    refused(two, script, tmp_path, "node2: lets nobody in without a password (root@node2: Permission denied")
    two.set_keys("node2", known=True)
    if script == "horovodrun.sh":  # Gloo
        two.set_address("node2", "127.0.1.1")
        refused(two, script, tmp_path, "node2: its own name node2 leads to 127.0.1.1 there, and no other host can")


def test_clocks_that_are_off_are_told_and_in_nobodys_way(two, recipe, image_folder, tmp_path):
    """Those of both hosts, but not of the files: the run's folder is held, and a request to stop is heeded."""
    environment = clocks_off(tmp_path, node1=3600, node2=-3600)
    options = ["--config", recipe, "--data.path", image_folder, *ENDLESS]
    job = HostsJob(two, "horovodrun.sh", tmp_path / "run", *options, **environment)
    until(lambda: has_saved(4)(job) or job.process.poll() is not None, PATIENCE)
    (job.run / "STOP").touch()
    assert job.end(PATIENCE) == 75, job.log()
    first, second = job.log().splitlines()[:2]
    assert first.startswith("hvd-imagenet: warning: node1: its clock is 3,") and " ahead of the one here; " in first
    assert second.startswith("hvd-imagenet: warning: node2: its clock is 3,") and " behind the one here; " in second
    until(lambda: not two.left(), 30)


def test_a_host_without_a_free_port(two, tmp_path):
    """All that node2 may choose from is one port, and that is taken."""
    taken = "import socket, time; s = socket.create_server(('', 61000)); print(flush=True); time.sleep(60)"
    two.run("node2", "sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 61000", check=True)
    holder = subprocess.Popen(two.on("node2", "python3", "-c", taken), stdout=subprocess.PIPE)
    holder.stdout.readline()
    refused(two, "horovodrun.sh", tmp_path, "node2: has no free port to listen at; end what holds them")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "hvd_imagenet cannot be started there with"),
        (lambda folder: (folder / "more.py").touch(), f"launcher has {version()}; install the same on all hosts"),
    ],
    ids=["none", "another"],
)
def test_a_host_with_another_version_or_none(two, tmp_path, change, message):
    """node2 sees another folder where the package is."""
    package, other = ROOT / "hvd_imagenet", tmp_path / "other"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    change(other)
    two.mount("node2", other, package)
    refused(two, "mpirun.sh", tmp_path, f"node2: {'has hvd_imagenet ' if 'launcher' in message else ''}")
    refused(two, "mpirun.sh", tmp_path, message)


@pytest.mark.parametrize("script", SCRIPTS)
def test_other_data_on_another_host_is_refused_naming_both(two, script, images, tmp_path):
    """node2 sees other images in the same folder: of the same classes, as many of each, and a pixel smaller."""
    (tmp_path / "data").mkdir()
    for name, source in (("node1", images), ("node2", some_of_fashion_mnist(tmp_path / "others", shorter_side=27))):
        two.mount(name, source, tmp_path / "data")
    job = HostsJob(two, script, tmp_path / "run", *OPTIONS, "--data.path", tmp_path / "data")
    assert job.end(PATIENCE) == 3, job.log()
    line = job.last_line()
    assert "the train images of worker 1 on node2 (checksum " in line and "those of worker 0 on node1 in " in line
    assert not job.run.exists() and not list(tmp_path.glob(".status*"))
    until(lambda: not two.left(), 30)


def refused(hosts, script, folder, message, **environment):
    """Hold that a job is refused with this one line, in time, having left nothing anywhere, besides what was there."""
    before = {process.pid for process in hosts.left()}
    job = HostsJob(hosts, script, folder / "refused", "--data.path", "/data", **environment)
    assert job.end(BAD_SECONDS) == 2, job.log()
    assert job.log().startswith("hvd-imagenet: error: ") and job.log().count("\n") == 1, job.log()
    assert message in job.log()
    assert not job.run.exists() and {process.pid for process in hosts.left()} == before
