"""The plan command: what it says, quickly and without a framework, and what it refuses, in one line."""

import json
import subprocess
import sys

import pytest

from hvd_imagenet import cli
from hvd_imagenet.planner import units

PAPER = ["--config", "resnet50_8k", "--workers", "256", "--network", "50Gb"]
SETTINGS, DATA = 2, 3


def shown(capsys, *arguments):
    assert cli.main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def plan(capsys, *arguments):
    return json.loads(shown(capsys, *arguments, "--json"))


def refused(capsys, *arguments, status=SETTINGS):
    assert cli.main(["plan", *arguments]) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("hvd-imagenet: error: ") and said.err.count("\n") == 1
    return said.err.removeprefix("hvd-imagenet: error: ").strip()


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50Gb", 6.25e9),
        ("50Gbit/s", 6.25e9),
        ("50 Gbps", 6.25e9),
        ("50gbit", 6.25e9),
        ("100mbit", 12.5e6),
        ("1e3Mb/s", 125e6),
        ("6.25GB/s", 6.25e9),
        ("50GB", 50e9),
        ("2GiB/s", 2 * 2**30),
        ("10 kbytes/s", 10e3),
        ("8bit/s", 1),
    ],
)
def test_rates(text, rate):
    assert units.rate("--network", text) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("text", "size"), [("110kB", 110e3), ("0.1MB", 1e5), ("64KiB", 65536), ("110k", 110e3), ("5", 5)]
)
def test_sizes(text, size):
    assert units.size("--image-bytes", text) == pytest.approx(size)


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (units.bits_per_second, 6.25e9, "50 Gbit/s"),
        (units.bits_per_second, 1.6e9, "12.8 Gbit/s"),
        (units.bits_per_second, 125e6 * 0.9415, "942 Mbit/s"),
        (units.bytes_per_second, 999.9e6, "1 GB/s"),
        (units.bytes_per_second, 999.4e6, "999 MB/s"),
        (units.in_bytes, 102_228_128, "102 MB"),
        (units.in_bytes, 2600, "2.6 kB"),
        (units.in_bytes, 0.5, "0.5 B"),
        (units.milliseconds, 0.12, "120 ms"),
        (units.milliseconds, 0.00994, "9.9 ms"),
        (units.milliseconds, 0.00996, "10 ms"),
        (units.milliseconds, 0.00063, "0.63 ms"),
        (units.duration, 119.4, "119 s"),
        (units.duration, 120, "2 min"),
        (units.duration, 3599, "60 min"),
        (units.duration, 3600, "1.0 h"),
        (units.duration, 172_799, "48.0 h"),
        (units.duration, 172_800, "2.0 days"),
    ],
)
def test_units_are_shown(show, value, text):
    assert show(value) == text


def test_the_papers_bandwidth(capsys):
    """102.2 MB to 31 / 32 twice within 120 ms are 13.2 Gbit/s; the paper rounds to 12.8."""
    found = plan(capsys, *PAPER, "--step-ms", "120")
    assert 8 * found["allreduce"]["needed_bytes_per_second"] == pytest.approx(13.205e9, rel=1e-4)
    assert "bandwidth needed  13.2 Gbit/s for a node" in shown(capsys, *PAPER, "--step-ms", "120")


def test_the_papers_hour_from_its_29_hours_on_8(capsys, tmp_path):
    """The 8 GPUs are measured, the 256 planned: near 90 % of 32 times as fast, and about an hour for 90 epochs."""
    speed = 90 * 1_281_167 / (29 * 3600)
    result = {"images_per_second": speed, "micro_size": 32, "workers": 8, "nodes": 1}
    (tmp_path / "step.json").write_text(json.dumps({"bench": "step", "results": result}))
    bench = ["--bench", str(tmp_path / "step.json")]
    few = plan(capsys, "--config", "resnet50_256", "--workers", "8", *bench)
    many = plan(capsys, *PAPER, *bench)
    assert few["seconds"] == pytest.approx(29 * 3600, rel=1e-4)
    assert 0.95 < many["seconds"] / 3600 < 1.05
    assert many["images_per_second"] / few["images_per_second"] / 32 == pytest.approx(0.90, abs=0.015)
    rows = {row["workers"]: row for row in few["table"]}
    assert rows[256]["global_batch"] == 8192 and rows[256]["run_seconds"] == pytest.approx(many["seconds"], rel=1e-3)


def test_what_is_shown(capsys):
    said = shown(capsys, *PAPER, "--step-ms", "120", "--storage", "100MB/s")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0] == "resnet50, 25,557,032 parameters, on 256 workers, 32 nodes of 8"
    assert "0.00 to 5.00 782 8,192 256 0.1 to 3.19619" in lines
    assert any(line.startswith("warning --storage: 100 MB/s; a node needs 2") for line in lines)
    assert any(line.startswith("between nodes 47.1 Gbit/s without headers, 30 µs") for line in lines)
    assert any(line.startswith("gradients 102 MB; each node sends, and is sent, 198 MB per step") for line in lines)
    assert any(line.startswith("memory 3.27 GB for each worker: weights 102 MB") for line in lines)
    [row] = [line for line in lines if line.startswith("1,024 128 * 32,768 1 ")]
    assert row.endswith("min")
    assert "--storage" not in said[said.index("assumed") :] and "(--spread)" in said[said.index("assumed") :]


def test_names_of_files_are_shown_as_they_are(capsys, tmp_path):
    (tmp_path / "[red]:tada:.json").write_text(
        '{"bench": "step", "results": {"images_per_second": 320, "micro_size": 32}}'
    )
    said = shown(capsys, *PAPER, "--bench", str(tmp_path / "[red]:tada:.json"))
    assert "100 ms for a micro-batch, from " in said and "[red]:tada:.json" in said


def test_all_workers_are_assumed_that_share_a_step(capsys):
    found = plan(capsys, "--config", "resnet50_8k")
    assert found["cluster"]["workers"] == 256 and found["cluster"]["per_node"] == 8
    assert any("256 workers" in words for words in found["assumed"])


@pytest.mark.parametrize(("count", "per_node"), [(1, 1), (7, 7), (8, 8), (11, 1), (12, 6), (24, 8)])
def test_nodes_are_assumed_to_be_full(capsys, count, per_node):
    assert plan(capsys, "--config", "resnet50_8k", "--workers", str(count))["cluster"]["per_node"] == per_node


def test_one_worker_waits_for_nobody(capsys):
    found = plan(capsys, "--config", "resnet50_256", "--workers", "1", "--step-ms", "100")
    assert found["efficiency"] == pytest.approx(1) and found["step"]["seconds"] == pytest.approx(0.8)
    assert "all-reduce" not in shown(capsys, "--config", "fashion_mnist", "--workers", "1").split("workers  nodes")[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], None),
        (
            ["--batch.global_size", "16384"],
            "batch.global_size: 16,384; above 8,192 the paper's accuracy falls: ResNet-50",
        ),
        (["--batch.global_size", "8224", "--workers", "257"], "24.79 % top-1 error at 16,384"),
        (["--batch.global_size", "100000"], "33.96 % top-1 error at 65,536"),
        (["--batch.micro_size", "64", "--workers", "128"], "batch.micro_size: 64; batch normalisation sees 64 images"),
        (
            ["--workers", "512"],
            "batch.global_size: 8,192; is 256 micro-batches of 32 for 512 workers: train refuses it",
        ),
        (
            ["--workers", "96"],
            "--workers: 96; 256 micro-batches are 3 for some and 2 for others, who wait: 11% of the time is lost; 64",
        ),
        (["--network", "1Gb"], "--network: 941 Mbit/s; "),
        (["--storage", "100MB/s"], "--storage: 100 MB/s; a node needs 109 MB/s"),
        (["--storage", "115MB/s"], None),
    ],
)
def test_warnings(capsys, arguments, told):
    warnings = plan(capsys, "--config", "resnet50_8k", "--workers", "256", *arguments)["warnings"]
    if told is None:
        assert warnings == []
    else:
        assert any(told in warning for warning in warnings), warnings


def test_a_slow_decoder_is_told(capsys, tmp_path):
    """32 images in 257 ms are 124 per second and worker."""
    for speed, told in ((100, 1), (150, 0)):
        result = {"bench": "loader", "results": {"ours": {"images_per_second": speed}}}
        (tmp_path / "loader.json").write_text(json.dumps(result))
        found = plan(capsys, *PAPER, "--bench", str(tmp_path / "loader.json"))
        assert sum("a worker decodes" in warning for warning in found["warnings"]) == told
        assert (found["step"]["seconds"] == pytest.approx(32 / 100)) is bool(told)


def test_measured_links_take_the_place_of_assumed_ones(capsys, tmp_path):
    rows = [{"bytes": n, "seconds": 2e-4 + n / 1e9, "workers": 2, "transport": "gloo"} for n in (10**4, 10**8)]
    (tmp_path / "links.json").write_text(json.dumps({"bench": "allreduce", "results": rows}))
    bench = ["--bench", str(tmp_path / "links.json")]
    found = plan(capsys, "--config", "resnet50_8k", "--workers", "2", "--per-node", "1", *bench)
    assert found["allreduce"]["transport"] == "Gloo"
    assert found["cluster"]["network"]["bytes_per_second"] == pytest.approx(1e9)
    assert found["cluster"]["network"]["latency_seconds"] == pytest.approx(1e-4)
    assert not any("--network" in words or "--transport" in words for words in found["assumed"])
    message = refused(capsys, *PAPER, *bench)
    assert message.startswith("--network: and --bench ") and message.endswith("has measured it; give one of them")


@pytest.mark.parametrize(
    ("nodes", "option", "clash"),
    [
        ((2,), "--network", True),
        ((2,), "--latency-us", True),
        ((2,), "--inside", False),
        ((1,), "--network", False),
        ((1,), "--latency-us", False),
        ((1,), "--inside", True),
        ((1, 2), "--inside", True),
        ((1, 2), "--latency-us", True),
    ],
)
def test_what_was_measured_is_not_given_beside(nodes, option, clash, capsys, tmp_path):
    """On one node they tell of what is inside of it, on several of what is between them."""
    rows = [
        {"bytes": size, "seconds": 2e-4 + size / 1e9, "workers": 2, "nodes": count}
        for size in (10**4, 10**8)
        for count in nodes
    ]
    (tmp_path / "links.json").write_text(json.dumps({"bench": "allreduce", "results": rows}))
    value = {"--network": "50Gb", "--latency-us": "20", "--inside": "5GB/s"}[option]
    arguments = ["--config", "resnet50_8k", "--workers", "16", "--bench", str(tmp_path / "links.json"), option, value]
    if clash:
        assert refused(capsys, *arguments).startswith(f"{option}: and --bench {tmp_path}/links.json, which has meas")
    else:
        assert plan(capsys, *arguments)["cluster"]["workers"] == 16


def test_horovods_own_settings_are_heeded(capsys, monkeypatch):
    paper = *PAPER, "--step-ms", "120"
    monkeypatch.delenv("HOROVOD_CYCLE_TIME", raising=False)
    before = plan(capsys, *paper)["step"]["exposed_seconds"]
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "20")
    assert 0.005 < plan(capsys, *paper)["step"]["exposed_seconds"] - before < 0.0195
    assert plan(capsys, *paper, "--allreduce.cycle_ms", "1")["step"]["exposed_seconds"] == before
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "soon")
    assert refused(capsys, *PAPER) == "HOROVOD_CYCLE_TIME: soon; give a number of milliseconds from 0 on"


RATE = "give a rate above 0, such as 50Gbit/s or 6.25GB/s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers: 0; give a number of workers above 0"),
        (["--workers", "-8"], "--workers: -8; give a number of workers above 0"),
        (["--workers", "8.5"], "--workers: 8.5; give a number of workers above 0"),
        (["--workers", ""], "--workers: empty; give a number of workers above 0"),
        (["--workers", "9" * 5000], "--workers: 9999999"),
        (["--per-node", "0"], "--per-node: 0; give a number of workers above 0"),
        (
            ["--workers", "12", "--per-node", "8"],
            "--per-node: 8; does not divide 12 workers; give one of 1, 2, 3, 4, 6, 12",
        ),
        (["--workers", "4000000"], "--workers: 4000000; are too many: batch.global_size: 128000000; the whole run is"),
        (["--network", "-50Gb"], f"--network: -50Gb; {RATE}"),
        (["--network", "0Gb"], f"--network: 0Gb; {RATE}"),
        (["--network", "nanGb"], f"--network: nanGb; {RATE}"),
        (["--network", "1e400Gb"], f"--network: 1e400Gb; {RATE}"),
        (["--network", "1e14Tb"], f"--network: 1e14Tb; {RATE}"),
        (["--network", "50 furlongs"], f"--network: 50 furlongs; {RATE}"),
        (["--network", ""], f"--network: empty; {RATE}"),
        (["--network", "50"], "--network: 50; bits or bytes? write 50Gbit/s for bits, 50GB/s for bytes"),
        (["--network", "50M"], "--network: 50M; bits or bytes? write 50Mbit/s for bits, 50MB/s for bytes"),
        (["--network", "50gb/s"], "--network: 50gb/s; bits or bytes? write 50Gbit/s for bits, 50GB/s for bytes"),
        (["--inside", "12"], "--inside: 12; bits or bytes? write 12Gbit/s for bits, 12GB/s for bytes"),
        (["--storage", "-1GB/s"], f"--storage: -1GB/s; {RATE}"),
        (["--latency-us", "-1"], "--latency-us: -1; give microseconds from 0 on, such as 30"),
        (["--step-ms", "0"], "--step-ms: 0; give the milliseconds of forward and backward of one micro-batch, above 0"),
        (
            ["--step-ms", "inf"],
            "--step-ms: inf; give the milliseconds of forward and backward of one micro-batch, above 0",
        ),
        (["--step-ms", "soon"], "--step-ms: soon; give the milliseconds of forward and backward of one micro-batch"),
        (["--spread", "1"], "--spread: 1; give the standard deviation of the nodes' times as a part of their mean"),
        (["--spread", "-0.1"], "--spread: -0.1; give the standard deviation of the nodes' times"),
        (["--transport", "ucx"], "--transport: ucx; give one of nccl, mpi, gloo"),
        (["--image-bytes", "110Kb"], "--image-bytes: 110Kb; give a number of bytes above 0, such as 110kB"),
        (["--image-bytes", "-1kB"], "--image-bytes: -1kB; give a number of bytes above 0, such as 110kB"),
        (["--step-ms", "120", "--bench", "x.json"], "--bench: and --step-ms; give one of them"),
        (["--bench", "nowhere.json"], "--bench: nowhere.json; no such file; give what bench --json wrote"),
        (["--plot", "plan.doc"], "--plot: plan.doc; give a file that ends in .png, .svg, .pdf"),
        (["--plot", "/nowhere/plan.png"], "--plot: /nowhere/plan.png; cannot be written"),
        (["--worker", "8"], "--worker: unknown option; did you mean --workers?"),
        (["--model.name", "mine:net"], "model.name: mine:net; what a network of your own costs is not known before"),
        (["--data.train_samples", "null"], "data.train_samples: null; give the size of the training set"),
    ],
)
def test_nonsense(capsys, arguments, message):
    assert refused(capsys, "--config", "resnet50_8k", *arguments).startswith(message)


def test_a_damaged_bench(capsys, tmp_path):
    (tmp_path / "bench.json").write_text('{"bench": "loader", ')
    message = refused(capsys, *PAPER, "--bench", str(tmp_path / "bench.json"), status=DATA)
    assert message == f"--bench: {tmp_path / 'bench.json'}; is no JSON, or damaged; give what bench --json wrote"


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_picture(capsys, tmp_path, ending, magic):
    picture = tmp_path / f"plan{ending}"
    shown(capsys, *PAPER, "--plot", str(picture))
    assert picture.read_bytes().startswith(magic) and picture.stat().st_size > 5000


def test_neither_framework_nor_dali_is_loaded():
    program = "import sys; from hvd_imagenet import cli; cli.main(['plan', '--config', 'resnet50_8k'])"
    program += "; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "tensorflow", "keras", "nvidia.dali", "matplotlib", "scipy"} & set(done.stdout.split())
