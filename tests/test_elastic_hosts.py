"""Elastic jobs by launch/elastic.sh on several hosts: cut off, back again, given up by the launcher, without one."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from hosts import LAUNCHER, Hosts, require_hosts
from jobs import Job, outside, steps_saved, until
from runs import GLOBAL, RECIPE, SAMPLES, metrics, weights

pytestmark = pytest.mark.cluster

SCRIPT = Path(__file__).parents[1] / "launch" / "elastic.sh"
OPTIONS = ["--checkpoint.every_epochs", "null", "--evaluate.every_epochs", "100000", "--faults.commit_every_steps", "7"]
STALL_SECONDS = 8
BACK_SECONDS = 120  # for ssh to give up, and the host to be tried again


@pytest.fixture
def two(tmp_path):
    require_hosts()
    folder = tmp_path / "hosts"
    folder.mkdir()
    with Hosts(2, folder) as hosts:
        yield hosts


class Elastic(Job):
    """A job that `launch/elastic.sh` has started on the launcher, endless, on one worker of each host."""

    def __init__(self, hosts, folder, data, *options):
        self.run, self._known, self._log = folder / "run", None, folder / "log"
        (folder / "hosts.txt").write_text("".join(f"{name}:1\n" for name in hosts.names))
        (folder / "recipe.yaml").write_text(RECIPE.replace("0.05", "0.0005"))  # thousands of steps then agree to 1e-9
        self.options = ["--config", folder / "recipe.yaml", "--data.path", data, *OPTIONS, *options]
        known = {"HOSTFILE": folder / "hosts.txt", "STALL_SECONDS": STALL_SECONDS, "COOLDOWN": "1 4"}
        known |= {"NETWORK_INTERFACE": "eth0", "OMP_NUM_THREADS": 1, "TF_CPP_MIN_LOG_LEVEL": 3}
        command = ["bash", SCRIPT, *self.options, "--epochs", "100000", "--run", self.run]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                hosts.on(LAUNCHER, *command),
                env={**outside(), **{name: str(value) for name, value in known.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.until(on(*hosts.names)).until(further(self))

    def stop(self):
        (self.run / "STOP").touch()
        assert self.end(60) == 75, self.log()


def on(*hosts):
    """A condition: the job runs on these, in the order of ranks or not."""
    return lambda job: (
        (job.status() or {}).get("status") == "running"
        and sorted(worker["host"] for worker in job.status()["workers"]) == sorted(hosts)
    )


def further(job):
    """A condition: it has taken some steps more than now."""

    def steps():
        return len(metrics(job.run, "step")) if (job.run / "metrics.jsonl").exists() else 0

    beyond = steps() + 20
    return lambda _: steps() > beyond


def workers(hosts, name):
    """The workers on a host."""
    return [process for process in hosts.processes(name) if "hvd_imagenet.cli" in " ".join(command(process))]


def command(process):
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def require_nothing_left(hosts):
    until(lambda: not [process for name in hosts.addresses for process in hosts.processes(name)], 60)


def require_undisturbed(job, folder):
    """The run, to three steps beyond its end, is one on a single worker that nothing has happened to."""
    last = steps_saved(job.run)[-1] + 3
    options = [*job.options, "--epochs", last * GLOBAL / SAMPLES]
    assert Job([], job.run, *options, "--resume").end(300) == 0
    assert Job([], folder / "alone", *options).end(300) == 0
    runs = job.run, folder / "alone"
    seen, expected = ([(e["step"], e["samples_seen"]) for e in metrics(run, "step")] for run in runs)
    assert seen == expected
    found, right = (weights(run, last) for run in runs)
    for kind in right:
        assert all(np.abs(found[kind][name] - right[kind][name]).max() < 1e-9 for name in right[kind])


@pytest.mark.parametrize("name", ["node1", "node2"])
@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.long)])
def test_a_host_that_is_cut_off_and_comes_back(two, name, framework, image_folder, tmp_path):
    """With worker 0 on it, or without. The other goes on; those that are cut off end themselves."""
    job = Elastic(two, tmp_path, image_folder, "--framework", framework)
    [other] = set(two.names) - {name}
    two.set_link(name, up=False)
    job.until(on(other), BACK_SECONDS)
    until(lambda: not workers(two, name), 30)
    job.until(further(job))
    two.set_link(name, up=True)
    job.until(on("node1", "node2"), BACK_SECONDS).until(further(job))
    job.stop()
    restarts = metrics(job.run, "restart")
    assert [(event["workers_before"], event["workers"]) for event in restarts] == [(2, 1), (1, 2)]
    # Each end misses the other; the hosts of this test share a disk, where worker 0 tells first.
    assert f"worker 1 on node2 has not answered for {STALL_SECONDS} s" in restarts[0]["reason"] or name == "node1"
    require_nothing_left(two)
    require_undisturbed(job, tmp_path)


def test_a_short_outage_costs_only_its_time(two, image_folder, tmp_path):
    job = Elastic(two, tmp_path, image_folder)
    two.set_link("node2", up=False)
    before, more = workers(two, "node2"), further(job)
    time.sleep(STALL_SECONDS / 2)
    assert not more(job)
    two.set_link("node2", up=True)
    job.until(further(job))
    assert workers(two, "node2") == before
    job.stop()
    assert not metrics(job.run, "restart")


def test_a_worker_whose_connection_to_the_launcher_ends(two, image_folder, tmp_path):
    """It is lost to the launcher, so it ends; the other goes on, and its host is taken in again."""
    job = Elastic(two, tmp_path, image_folder)
    [ssh] = [one for one in two.processes(LAUNCHER) if one.name() == "ssh" and "node2" in command(one)]
    ssh.kill()
    job.until(on("node1"), 60).until(on("node1", "node2"), BACK_SECONDS).until(further(job))
    job.stop()
    restarts = metrics(job.run, "restart")
    assert "worker 1 on node2: given up by the launcher" in restarts[0]["reason"]
    assert [event["workers"] for event in restarts] == [1, 2]
    require_undisturbed(job, tmp_path)


def test_no_worker_outlives_the_launcher(two, image_folder, tmp_path):
    job = Elastic(two, tmp_path, image_folder)
    for process in two.processes(LAUNCHER):
        with suppress(psutil.NoSuchProcess):  # its parent was the first
            os.kill(process.pid, signal.SIGKILL)
    require_nothing_left(two)
    assert job.status()["exit_code"] == 75 and "lost its launcher; everything is saved" in job.status()["reason"]
    assert steps_saved(job.run)[-1] == metrics(job.run, "step")[-1]["step"]
