"""The all-reduce bench: sums that are sums, its arithmetic by hand, and results that plan reads."""

import json
import subprocess
import sys
from argparse import Namespace

import numpy as np
import psutil
import pytest
from jobs import mpi, outside
from rich.console import Console
from test_bench_scaling import quick_horovodrun  # noqa: F401  a fixture

from hvd_imagenet import cli
from hvd_imagenet.bench import allreduce, allreduce_table, jobs
from hvd_imagenet.bench.reductions import elements, work
from hvd_imagenet.bench.work import Answer
from hvd_imagenet.planner import measured

QUICK = ["--rounds", "2", "--seconds", "0.02", "--sizes", "4KB,16MB"]


@pytest.mark.parametrize(
    ("count", "seconds", "expected"),
    [(2, 0.001, 1e6), (4, 0.001, 1.5e6), (4, 0.0005, 3e6), (64, 0.001, 1.96875e6)],
)
def test_bus_bandwidth(count, seconds, expected):
    """Of 1,000 bytes in a millisecond: two workers send half of them twice, four three quarters twice."""
    assert allreduce.bus_bandwidth(1000, seconds, count) == pytest.approx(expected)


def test_rows():
    """A job's sum: 0.2 seconds for 4, 0.3 for 2. Two that copy, each for itself: 5 and 10 to a second."""
    asked = [{"bytes": 1000, "tensors": 1}]
    (row,) = allreduce.rows_of([[[Answer(4, 0.2, 4, {})], [Answer(2, 0.3, 2, {})]]], asked, 2, 1)
    assert row["seconds"]["values"] == pytest.approx([0.05, 0.15]) and row["bytes"] == 1000
    assert row["bus_bytes_per_second"]["values"] == pytest.approx([20000, 1000 / 0.15])
    assert (row["workers"], row["nodes"], row["tensors"]) == (2, 1, 1)
    (row,) = allreduce.rows_of([[[Answer(5, 1.0, 5, {}), Answer(20, 2.0, 20, {})]]], asked, 2, 1)
    assert row["seconds"]["values"] == pytest.approx([2 / 15])


def test_plan_reads_horovods_single_sums_alone(tmp_path):
    """2 (p - 1) messages of 1 ms, and 1 GB/s; groups and others are faster, and none of its business."""
    asked = [{"bytes": 2**power, "tensors": n} for power in (12, 28) for n in (1, 16)]

    def rows(alpha, rate):
        seconds = [2 * alpha + one["bytes"] / (rate * (1 if one["tensors"] == 1 else 5)) for one in asked]
        return allreduce.rows_of([[[Answer(1, each, 1, {})]] * 3 for each in seconds], asked, 2, 1)

    options = Namespace(rounds=3, seconds=0.1, json=str(tmp_path / "links.json"))
    found = {"mpi": rows(1e-3, 1e9), "gloo": rows(1e-3, 5e8), "torch": rows(1e-6, 1e11)}
    allreduce._tell(found, dict.fromkeys(found, "one"), options, Namespace(console=Console()))
    links = measured.read([options.json]).links
    assert links.transport == "mpi" and links.network is None
    assert links.inside.latency == pytest.approx(1e-3) and links.inside.rate == pytest.approx(1e9)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("4KB", [4096]), ("1MB,64", [64, 2**20]), ("1 GB", [2**30]), ("64B, 64", [64]), (None, allreduce.SIZES)],
)
def test_sizes(given, expected):
    assert allreduce.sizes(given) == expected
    assert allreduce.SIZES[0] == 4096 and allreduce.SIZES[-1] == 256 * 2**20 and len(allreduce.SIZES) == 9


def test_words():
    assert [allreduce_table.size(n) for n in (64, 4096, 2**20, 256 * 2**20)] == ["64 B", "4 KB", "1 MB", "256 MB"]
    assert elements({"bytes": 4096, "tensors": 16}) == [64] * 16 and elements({"bytes": 64, "tensors": 1}) == [16]


@pytest.mark.parametrize("workers", [2])
@pytest.mark.parametrize("tensors", [1, 16])
def test_horovod_sums(tensors, workers):
    sums = work("horovod_sum", {})
    assert (sums.size, sums.transport) == (workers, "gloo") and sums.gather(sums.rank) == [0, 1]
    sums.prepare({"bytes": 4096, "tensors": tensors})
    for number, tensor in enumerate(sums._tensors):
        tensor.fill_(number + sums.rank)
    sums.take(1)
    sums.finish()
    # Of n and n + 1.
    assert [set(tensor.tolist()) for tensor in sums._tensors] == [{2 * n + 1} for n in range(tensors)]


@pytest.mark.parametrize("tensors", [1, 16])
def test_torch_sums_alone(tensors, tmp_path):
    """Alone, a sum is what it is made of."""
    sums = work("torch_sum", {"meeting": str(tmp_path / "meeting"), "rank": 0, "workers": 1})
    try:
        sums.prepare({"bytes": 4096, "tensors": tensors})
        sums._tensors[0].fill_(3)
        sums.take(2)
        assert set(sums._tensors[0].tolist()) == {3} and sums.gather(5) == [5]
    finally:
        sys.modules["torch.distributed"].destroy_process_group()


def test_a_copy_is_one():
    copy = work("memory_copy", {})
    copy.prepare({"bytes": 4096, "tensors": 16})
    for _, source in copy._pairs:
        source += 1
    copy.take(1)
    assert len(copy._pairs) == 16 and all((target == 2).all() and target.size == 64 for target, _ in copy._pairs)


def test_the_command(tmp_path, capsys, quick_horovodrun):  # noqa: F811
    before = psutil.Process().children()
    file = tmp_path / "allreduce.json"
    assert cli.main(["bench", "allreduce", *QUICK, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "sum over 2 workers: milliseconds" in " ".join(said.split()) and "mpi4py" in said and "16 MB" in said
    report = json.loads(file.read_text())
    kinds = {
        part: {(row.get("transport", row.get("contestant")), row["bytes"], row["tensors"]) for row in report[part]}
        for part in ("results", "grouped", "alternatives")
    }
    both = [4096, 2**24]
    assert kinds["results"] == {(name, size, 1) for name in ("gloo", "mpi") for size in both}
    assert kinds["grouped"] == {(name, size, 16) for name in ("gloo", "mpi") for size in both}
    others = {(name, size, n) for name in ("torch", "mpi4py", "copy") for size in both for n in (1, 16)}
    assert kinds["alternatives"] == others
    for part in kinds:
        for row in report[part]:
            assert len(row["seconds"]["values"]) == 2 and (row["workers"], row["nodes"]) == (2, 1)
            rates = row["bytes"] / np.array(row["seconds"]["values"])  # 2 (2 - 1) / 2 is 1
            assert row["bus_bytes_per_second"]["values"] == pytest.approx(list(rates))
    assert psutil.Process().children() == before


def test_within_a_job(tmp_path):
    """What a launcher has started is what is measured: rank 0 alone tells of it."""
    file = tmp_path / "allreduce.json"
    command = [*map(str, mpi(2)), sys.executable, "-m", "hvd_imagenet.cli", "bench", "allreduce", *QUICK]
    done = run([*command, "--json", str(file)])
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("sum over 2 workers") == 1
    report = json.loads(file.read_text())
    assert {row["transport"] for row in report["results"]} == {"mpi"} and len(report["grouped"]) == 2
    assert report["alternatives"] == []


def run(command):
    return subprocess.run(
        command, env=outside(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "1"], "--workers: 1; a sum takes 2 workers or more"),
        (["--workers", "5000"], "--workers: 5000; this machine has 2 cores: give at most as many"),
        (["--sizes", "5"], "--sizes: 5; give multiples of 64 bytes, such as 4KB,1MB,256MB"),
        (["--sizes", "4KiB"], "--sizes: 4KiB; give multiples of 64 bytes"),
        (["--sizes", "0"], "--sizes: 0; give multiples of 64 bytes"),
        (["--against", "nccl"], "--against: nccl; known: torch, mpi4py"),
        (["--transport", "tcp"], "--transport: tcp; known: gloo, mpi"),
        (["--seconds", "-1"], "--seconds: -1.0; give a number above 0"),
        (["--size", "4KB", "--hosts"], "unrecognized arguments: --hosts; see hvd-imagenet bench allreduce --help"),
    ],
)
def test_bad_options(options, said, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "built", lambda framework: {"Gloo": True, "MPI": True, "NCCL": False})
    monkeypatch.setattr(jobs, "most_workers", lambda: (2, "core"))
    assert cli.main(["bench", "allreduce", *options]) == 2
    assert said in capsys.readouterr().err


def test_without_mpirun(monkeypatch, capsys):
    monkeypatch.setattr(jobs, "has_mpirun", lambda: False)
    assert allreduce._alternatives(None) == ["torch"]
    with pytest.raises(allreduce.SettingsError, match="--against: mpi4py; there is no mpirun on the PATH; run: "):
        allreduce._alternatives("mpi4py")


def test_within_a_job_there_is_nothing_else(monkeypatch, capsys):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert cli.main(["bench", "allreduce", "--workers", "2"]) == 2
    assert "--workers: within a job, that job is measured, and nothing else: leave it out" in capsys.readouterr().err


def test_without_pytorch(monkeypatch, capsys):
    monkeypatch.setattr(allreduce, "find_spec", lambda name: None)
    assert cli.main(["bench", "allreduce"]) == 2
    assert "bench allreduce: needs Horovod for PyTorch; run: bash launch/install.sh" in capsys.readouterr().err
