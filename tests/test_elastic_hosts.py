"""Elastic jobs by launch/elastic.sh on several hosts: cut off, back again, given up by the launcher, without one."""

import os
import re
import signal
import time
from contextlib import suppress

import psutil
import pytest
from hosts import LAUNCHER, HostsJob
from jobs import steps_saved, until
from runs import metrics
from undisturbed import ENDLESS, OPTIONS, SLOW, further, require_undisturbed

pytestmark = pytest.mark.cluster

STALL_SECONDS = 8
START_SECONDS = 90
BACK_SECONDS = 120  # for ssh to give up, and the host to be tried again


class ElasticJob(HostsJob):
    """A job by launch/elastic.sh, endless."""

    def __init__(self, hosts, folder, data, *options, stall=STALL_SECONDS):
        (folder / "hosts.txt").write_text("".join(f"{name}:1\n" for name in hosts.names))
        (folder / "recipe.yaml").write_text(SLOW)
        self.options = ["--config", folder / "recipe.yaml", "--data.path", data, *OPTIONS, *options]
        known = {"HOSTFILE": folder / "hosts.txt", "HOSTS": "", "STALL_SECONDS": stall, "COOLDOWN": "1 4"}
        super().__init__(hosts, "elastic.sh", folder / "run", *self.options, *ENDLESS, **known)
        self.until(on(*hosts.names), START_SECONDS).until(further(self.run))

    def host(self, rank):
        return self.status()["workers"][rank]["host"]

    def stop(self):
        (self.run / "STOP").touch()
        assert self.end() == 75, self.log()


def on(*hosts):
    """A condition: the job runs on these, in the order of ranks or not."""
    return lambda job: (
        (job.status() or {}).get("status") == "running"
        and sorted(worker["host"] for worker in job.status()["workers"]) == sorted(hosts)
    )


def require_nothing_left(hosts):
    until(lambda: not hosts.left(), 60)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.long)])
def test_a_host_that_is_cut_off_and_comes_back(two, rank, framework, image_folder, tmp_path):
    """With worker 0 on it, or without. The other goes on; those that are cut off end themselves."""
    job = ElasticJob(two, tmp_path, image_folder, "--framework", framework)
    name, other = (job.host(one) for one in (rank, 1 - rank))
    two.set_link(name, up=False)
    job.until(on(other), BACK_SECONDS)
    until(lambda: not two.workers(name), 30)
    job.until(further(job.run))
    two.set_link(name, up=True)
    job.until(on("node1", "node2"), BACK_SECONDS).until(further(job.run))
    job.stop()
    require_nothing_left(two)
    restarts = require_undisturbed(job.run, job.options, tmp_path)
    assert [(event["workers_before"], event["workers"]) for event in restarts] == [(2, 1), (1, 2)]
    # Each end misses the other; the hosts of this test share a disk, where either may be the first to tell.
    named = f"worker 1 on {name}" if rank else "worker . on node."
    assert re.match(f"{named} has not answered for {STALL_SECONDS} s", restarts[0]["reason"])


def test_a_short_outage_costs_only_its_time(two, image_folder, tmp_path):
    """Of 10 s, in which the launcher has asked the host several times; 20 are allowed."""
    job = ElasticJob(two, tmp_path, image_folder, stall=20)
    two.set_link("node2", up=False)
    before, more = two.workers("node2"), further(job.run)
    time.sleep(10)
    assert not more(job)
    two.set_link("node2", up=True)
    job.until(further(job.run))
    assert two.workers("node2") == before
    job.stop()
    assert not metrics(job.run, "restart")


def test_a_worker_whose_connection_to_the_launcher_ends(two, image_folder, tmp_path):
    """It is lost to the launcher, so it ends; the other goes on, and its host is taken in again."""
    job = ElasticJob(two, tmp_path, image_folder)
    lost, other = (job.host(rank) for rank in (1, 0))
    [ssh] = [one for one in two.processes(LAUNCHER) if one.name() == "ssh" and lost in one.cmdline()]
    ssh.kill()
    job.until(on(other), 60).until(on("node1", "node2"), BACK_SECONDS).until(further(job.run))
    job.stop()
    require_nothing_left(two)
    restarts = require_undisturbed(job.run, job.options, tmp_path)
    assert f"worker 1 on {lost}: given up by the launcher" in restarts[0]["reason"]
    assert [event["workers"] for event in restarts] == [1, 2]


def test_no_worker_outlives_the_launcher(two, image_folder, tmp_path):
    job = ElasticJob(two, tmp_path, image_folder)
    for process in two.processes(LAUNCHER):
        with suppress(psutil.NoSuchProcess):  # its parent was the first
            os.kill(process.pid, signal.SIGKILL)
    require_nothing_left(two)
    assert job.status()["exit_code"] == 75 and "lost its launcher; everything is saved" in job.status()["reason"]
    assert steps_saved(job.run)[-1] == metrics(job.run, "step")[-1]["step"]
