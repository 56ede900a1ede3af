"""The doctor on several hosts: nothing is wrong where nothing is, a link is measured, and each planted fault found."""

import re
import sys
import time

import pytest
from doctors import DOCTOR, examined, lines
from hosts import LAUNCHER, clocks_off
from jobs import HOROVODRUN, until

from hvd_imagenet.doctor.findings import FAILURE, OK, WARNING

pytestmark = pytest.mark.cluster

HOSTS = ["-np", 2, "-H", "node1:1,node2:1"]
SSH = ["--mca", "plm_rsh_args", "-o BatchMode=yes -o StrictHostKeyChecking=accept-new"]
INTERFACE = ["--mca", "oob_tcp_if_include", "eth0", "--mca", "btl_tcp_if_include", "eth0"]
LAUNCHERS = {  # each as its script in launch/ has it, and what lets --network pass
    "horovodrun": [sys.executable, "-c", HOROVODRUN, *HOSTS, "--gloo", "--network-interface", "eth0", "env", "--"],
    "mpirun": ["mpirun", *HOSTS, *SSH, *INTERFACE, "-x", "PATH", "-x", "PYTHONPATH", "env", "--"],
}
ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
SECONDS = 120  # a healthy report takes 20 on two cores
FAULT_SECONDS = 60  # Gloo alone would be silent for that long
RATE, DELAY_MS = 1000, 5  # Mbit/s; each way


def doctor(hosts, launcher, *options, seconds=SECONDS, **environment):
    """The report of a worker on each host, and how the launcher ended, leaving nothing behind."""
    report, done = examined(
        hosts.on(LAUNCHER, *LAUNCHERS[launcher], *DOCTOR, *options), seconds, **ROOT_MAY, **environment
    )
    until(lambda: not [process for name in hosts.addresses for process in hosts.processes(name)], 30)
    assert (report["launcher"], report["workers"], report["hosts"]) == (launcher, 2, hosts.names)
    return report, done


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_nothing_is_wrong_with_healthy_hosts(two, launcher, image_folder):
    report, done = doctor(two, launcher, "--network", "--data", image_folder)
    assert (lines(report, FAILURE), lines(report, WARNING, "host name"), done.returncode) == ([], [], 0), done.stderr
    over = {"horovodrun": "Gloo", "mpirun": "MPI"}[launcher]
    assert any(f"2 worker(s) meet over {over} and sum over {over}" in text for text in lines(report, OK, "Horovod"))
    assert len(lines(report, OK, "network")) == 2  # TCP, and Horovod
    assert lines(report, OK, "clocks") and lines(report, OK, "data")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_limited_link_between_hosts_is_measured(two, launcher):
    """Within 20 % of what it is, where the machine itself keeps up with a link of that rate."""
    two.set_link_speed("node2", f"{RATE}mbit", delay_ms=DELAY_MS)
    for _ in range(3):
        report, _ = doctor(two, launcher, "--network")
        links = report["facts"][0]["links"]
        assert [(link["sender"], link["receiver"]) for link in links] == [(0, 1), (1, 0)]
        assert all(link["mbits"] < 1.2 * RATE and link["round_trip_ms"] >= 2 * DELAY_MS for link in links)
        if all(link["mbits"] > 0.8 * RATE and link["round_trip_ms"] < 4 * DELAY_MS for link in links):
            (text,) = (text for text in lines(report, OK, "network") if text.startswith("TCP, 2 links over eth0: "))
            assert " at 10.71.0." in text
            assert f"{min(link['mbits'] for link in links):,.0f} Mbit/s; longest round trip 1" in text
            return
    raise AssertionError(links)


@pytest.mark.parametrize(
    ("address", "text", "remedy"),
    [
        (
            "127.0.1.1",
            "node2 stands for 127.0.1.1, a loopback address: no other host reaches Gloo there",
            "in /etc/hosts, give node2 its own address, 10.71.0.2, in the place of 127.0.1.1; or use mpirun",
        ),
        (None, "node2 has no address (", "add it to /etc/hosts: 10.71.0.2 node2"),
    ],
    ids=["loopback", "none"],
)
def test_a_name_that_leads_astray_is_found_before_gloo_dies_of_it(two, address, text, remedy):
    """With no address at all, Gloo ends by SIGSEGV."""
    two.set_address("node2", address)
    begun = time.monotonic()
    report, done = doctor(two, "horovodrun", seconds=FAULT_SECONDS)
    assert time.monotonic() - begun < FAULT_SECONDS and done.returncode == 1
    (found,) = (found for found in report["findings"] if (found["level"], found["check"]) == (FAILURE, "host name"))
    assert found["text"].startswith(text) and found["remedy"] == remedy and found["host"] == "node2"
    assert lines(report, FAILURE, "Horovod") == [
        "not started: another worker cannot load it or be reached",
        "not started: no other host would reach this one",
    ]
    assert len(lines(report, FAILURE)) == 3


def test_a_clock_that_is_off_is_found(two, tmp_path):
    report, done = doctor(two, "mpirun", **clocks_off(tmp_path, node2=3600))
    (text,) = lines(report, FAILURE)
    assert re.fullmatch(r"node2 is 3,(599\.9|600\.\d) s ahead of node1", text) and done.returncode == 1
