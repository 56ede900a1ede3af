"""What the doctor finds when it compares workers and hosts, and how it tells it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from hvd_imagenet.doctor import network
from hvd_imagenet.doctor.compare import compared
from hvd_imagenet.doctor.findings import FAILURE, OK, WARNING, Finding, of_error
from hvd_imagenet.doctor.launch import MPI, Launch
from hvd_imagenet.doctor.report import Report


def job_lines(hosts, facts, clocks=None):
    return [(found.level, found.check, found.text) for found in compared(hosts, facts, clocks)]


@pytest.mark.parametrize(
    ("fact", "name", "level", "check"),
    [
        ("versions", "hvd-imagenet", FAILURE, "versions"),
        ("loaded", "NCCL", FAILURE, "versions"),
        ("mpi", "MPI's library", WARNING, "MPI"),
        ("drivers", "GPU driver", WARNING, "GPU"),
        ("fabric", "InfiniBand", WARNING, "interfaces"),
        ("kernel", None, None, None),
    ],
)
def test_hosts_that_differ_are_named(fact, name, level, check):
    """Of workers that do not tell, as those that are not the first of their host, nothing is said."""
    first, other = ({fact: {name: number} if name else number} for number in ("1", "2"))
    text = f"not the same everywhere: {name}: 1 on a (worker 0), 2 on b (worker 2)"
    assert job_lines(["a", "a", "b"], [first, {}, other]) == ([(level, check, text)] if name else [])
    assert job_lines(["a", "a", "b"], [first, {}, first]) == []


def test_the_slowest_reader_is_named():
    facts = [{"reading": {"images_per_second": speed, "bytes_per_second": 1e6}} for speed in (300.0, 100.0)]
    text = "read in random order: 400 images/s, 2.0 MB/s over all; slowest worker 1 on b, 100 images/s"
    assert job_lines(["a", "b"], facts) == [(OK, "data", text)]


def test_two_workers_on_one_gpu_are_named():
    assert job_lines(["a", "a"], [{"gpu": "X"}, {"gpu": "X"}])[-1] == (
        FAILURE,
        "GPU",
        "workers 0 and 1 on a share GPU X",
    )
    assert job_lines(["a", "b"], [{"gpu": "X"}, {"gpu": "X"}]) == []
    assert "worker 1 on b has no GPU" in job_lines(["a", "b"], [{"gpu": "X"}, {"gpu": None}])[-1][2]


def test_a_missing_worker_is_named():
    ((level, check, text),) = job_lines(["a", None], [{}, {}])
    assert (level, check) == (FAILURE, "workers")
    assert text.startswith("worker 1 is not heard of")


@pytest.mark.parametrize(
    ("clocks", "level"), [([0.0, 1.0], OK), ([0.0, -1.1], WARNING), ([0.0, 60.0], WARNING), ([0.0, 60.1], FAILURE)]
)
def test_clocks_apart_are_named(clocks, level):
    (found,) = job_lines(["a", "b"], [{}, {}], clocks)
    assert found[:2] == (level, "clocks")
    if level != OK:
        assert ("a is 1.1 s ahead of b" if clocks[1] < 0 else "s ahead of a") in found[2]


def test_the_slowest_link_is_named():
    links = [network.Measured(0, 1, 900.0, 1.0), network.Measured(1, 0, 400.0, 2.0), network.Measured(2, 0, None, None)]
    links[1] = replace(links[1], address="10.1.0.1", interface="ib0")
    links[2] = replace(links[2], address="10.1.0.1, 10.2.0.1")
    links[0] = replace(links[0], address="10.3.0.2", interface="eth0")
    lost, slow = network.judged(links, ["a", "b", "c"])
    assert (lost.level, lost.text) == (FAILURE, "c to a: no connection to 10.1.0.1, 10.2.0.1")
    assert slow.level == OK  # 400 is more than half of 650
    assert slow.text.startswith(
        "TCP, 2 links over eth0, ib0: 650 Mbit/s (median); slowest b to a at 10.1.0.1, 400 Mbit/s;"
    )
    assert slow.text.endswith("; longest round trip 2.00 ms, b to a")
    assert network.judged(links[:1], ["a", "a"])[0].text.startswith("TCP, 1 link inside the host: ")
    (slow,) = network.judged([*links[:1] * 2, network.Measured(1, 0, 400.0, 2.0)], ["a", "b", "c"])
    assert slow.level == WARNING


def test_many_hosts_without_a_fault_are_not_all_shown():
    launch, console = Launch("mpirun", MPI, 0, 12, 0, 1), Console(width=120, record=True, file=io.StringIO())
    hosts = [f"node{number}" for number in range(12)]
    findings = [[Finding(OK, "interfaces", f"10.0.0.{number}")] for number in range(12)]
    findings[11].append(Finding(FAILURE, "GPU", "gone", "restart"))
    Report.of(launch, hosts, findings, [], [{}] * 12).show(console)
    text = console.export_text()
    assert "all ok on 3 more" in text
    assert ("10.0.0.7 " in text, "10.0.0.8 " in text, "10.0.0.11 " in text) == (True, False, True)
    assert "gone" in text and "→ restart" in text and "1 failure(s), 0 warning(s), 12 ok" in text


def test_what_many_have_alike_is_one_line():
    good, own = Finding(OK, "disk", "much"), Finding(FAILURE, "GPU", "gone", "restart")
    launch = Launch("mpirun", MPI, 0, 3, 0, 2)
    report = Report.of(launch, ["a", "a", "b"], [[good], [good, own], [good]], [], [{}, {}, {}])
    assert [(line.finding, line.ranks) for line in report.lines] == [(good, (0, 1, 2)), (own, (1,))]
    assert [report._place(line) for line in report.lines] == ["the job", "a, worker 1"]
    assert report.failed() == ["GPU"]


def test_an_error_is_parted_from_its_remedy():
    assert of_error("data", "x: no such folder; give one") == Finding(FAILURE, "data", "x: no such folder", "give one")
