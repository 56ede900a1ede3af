"""What calibrates a plan: results of benches and folders of runs, whole, damaged, and of another kind."""

import json

import pytest

from hvd_imagenet import settings
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.planner import measured
from hvd_imagenet.planner.calibration import micro_batch_seconds
from hvd_imagenet.planner.cluster import Cluster, Link
from hvd_imagenet.planner.step import Network, Speed, Step
from hvd_imagenet.planner.transport import TRANSPORTS

LINKS = Cluster(256, 8, Link(30e-6, 5.9e9), Link(10e-6, 12e9))
NCCL = TRANSPORTS["nccl"]
LOADER = {"bench": "loader", "results": {"ours": {"images_per_second": {"median": 640.0, "values": [1]}}}}
STEP = {"bench": "step", "results": {"images_per_second": 320.0, "micro_size": 32}}


def config(*arguments):
    return settings.parse(settings.parser("test", "a test"), list(arguments))[0]


RESNET50 = config("--config", "resnet50_8k")


def saved(path, result):
    path.write_text(result if isinstance(result, str) else json.dumps(result))
    return str(path)


def all_reduces(latency, rate, workers=4, transport="gloo", **more):
    """What a ring takes for 1 kB, 1 MB and 100 MB: 2 (p - 1) steps, 2 (p - 1) / p of the bytes."""
    rows = []
    for count in (10**3, 10**6, 10**8):
        seconds = 2 * (workers - 1) * latency + 2 * (workers - 1) / workers * count / rate
        rows.append({"bytes": count, "seconds": seconds, "workers": workers, "transport": transport, **more})
    return rows


def seconds_of(steps, plan=RESNET50, spread=0.05):
    return micro_batch_seconds(steps, plan, LINKS, NCCL, spread)


def a_run(folder, *options, hosts=("node1",), steps=(), recipe="fashion_mnist"):
    """A run's folder: each step is (global batch, images per second, more that is written down), or a restart."""
    folder.mkdir()
    (folder / "config.yaml").write_text(settings.dump(config("--config", recipe, *options)))
    events = []
    for number, step in enumerate(steps, 1):
        if step == "restart":
            events.append({"event": "restart", "step": number})
        else:
            size, speed, more = step
            events.append({"event": "step", "step": number, "global_batch": size, "images_per_second": speed, **more})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    workers = [{"rank": rank, "host": host, "pid": 1} for rank, host in enumerate(hosts)]
    (folder / "status.json").write_text(json.dumps({"status": "running", "workers": workers}))
    return str(folder)


def test_a_loaders_result(tmp_path):
    assert measured.read([saved(tmp_path / "loader.json", LOADER)]) == measured.Measured(loader=640.0)


def test_the_real_loaders_result_has_these_keys():
    from hvd_imagenet.bench.loader import results

    found = results({"ours": [10.0, 20.0, 30.0]}, 2)
    assert found["ours"]["images_per_second"]["median"] == 20.0


def test_a_steps_result(tmp_path):
    """320 images per second of one worker are 0.1 s for 32."""
    steps = measured.read([saved(tmp_path / "step.json", STEP)]).steps
    assert (steps.workers, steps.nodes, steps.micro_batches, steps.seconds) == (1, 1, 1, pytest.approx(0.1))
    assert seconds_of(steps) == pytest.approx(0.1)


def test_another_micro_batch_takes_as_much_longer_as_it_is_larger(tmp_path):
    result = {"bench": "step", "results": {"images_per_second": {"median": 320}, "micro_size": 16}}
    steps = measured.read([saved(tmp_path / "step.json", result)]).steps
    assert seconds_of(steps) == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "nodes", "each"), [(8, 1, 1), (16, 2, 1), (16, 2, 3)])
def test_steps_of_many_workers_give_the_time_of_one(tmp_path, count, nodes, each):
    """What is predicted from 0.2 s, measured in turn, gives 0.2 s."""
    cluster = LINKS.of(count, count // nodes)
    step = Step(each * count, 32, cluster, Network.of(RESNET50), Speed(0.2, 0.05), NCCL)
    result = {"images_per_second": step.images_per_second, "micro_size": 32, "workers": count, "nodes": nodes}
    result = {"bench": "step", "results": result | {"micro_batches": each * count}}
    assert seconds_of(measured.read([saved(tmp_path / "step.json", result)]).steps) == pytest.approx(0.2, rel=1e-9)


def test_steps_that_are_faster_than_the_network_they_are_said_to_have_had(tmp_path):
    result = {"bench": "step", "results": {"images_per_second": 1e6, "micro_size": 32, "workers": 16, "nodes": 2}}
    steps = measured.read([saved(tmp_path / "step.json", result)]).steps
    with pytest.raises(SettingsError, match=r"step.json; its steps took 0.51 ms, and over this network the all-reduce"):
        seconds_of(steps)


@pytest.mark.parametrize(("latency", "rate"), [(50e-6, 1e9), (0.0, 1e9), (1e-3, 12.5e6)])
@pytest.mark.parametrize("count", [2, 4, 32])
def test_alpha_and_beta(latency, rate, count, tmp_path):
    result = {"bench": "allreduce", "results": all_reduces(latency, rate, count)}
    links = measured.read([saved(tmp_path / "allreduce.json", result)]).links
    assert (links.transport, links.inside) == ("gloo", None)
    assert links.network.latency == pytest.approx(latency, rel=1e-6, abs=1e-12)
    assert links.network.rate == pytest.approx(rate, rel=1e-6)


def test_all_reduces_of_several_places_and_transports(tmp_path):
    """The transport that is fastest between nodes; what one node has among its own workers is for these."""
    rows = all_reduces(1e-4, 1e9, transport="gloo") + all_reduces(5e-5, 2e9, transport="MPI", nodes=2)
    rows += all_reduces(1e-5, 1e10, transport="mpi", nodes=1) + all_reduces(1e-5, 9e10, transport="nccl", nodes=1)
    links = measured.read([saved(tmp_path / "allreduce.json", {"bench": "allreduce", "results": rows})]).links
    assert links.transport == "mpi"
    assert (links.network.rate, links.inside.rate) == (pytest.approx(2e9), pytest.approx(1e10))


def test_a_run_on_one_worker(tmp_path):
    """Its first step is slow; the last line is being written."""
    run = a_run(tmp_path / "run", steps=[(256, 100, {}), (256, 3000, {}), (256, 2000, {}), (256, 2500, {})])
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "glob')
    steps = measured.read([run]).steps
    assert (steps.micro_batches, steps.workers, steps.nodes) == (8, 1, 1)
    assert steps.seconds == pytest.approx(256 / 2500) and steps.computing is None
    assert seconds_of(steps, config("--config", "fashion_mnist")) == pytest.approx(256 / 2500 / 8)


def test_another_network_takes_as_much_longer_as_it_has_more_operations(tmp_path):
    run = a_run(tmp_path / "run", steps=[(256, 2500, {})])
    small, large = (config("--config", "fashion_mnist", "--model.name", name) for name in ("resnet8", "resnet20"))
    times = [seconds_of(measured.read([run]).steps, plan) for plan in (small, large)]
    assert times[1] / times[0] == pytest.approx(81.9 / 25.5, rel=0.15)  # of 32 x 32 pixels, 41 M multiply-adds to 13 M


def test_the_steps_since_the_last_restart_and_of_the_last_batch_count(tmp_path):
    old, few, many = (256, 9000.0, {}), (256, 1000.0, {}), (512, 2000.0, {})
    run = a_run(tmp_path / "run", hosts=("a", "a", "b", "b"), steps=[old, old, "restart", few, few, many, many])
    steps = measured.read([run]).steps
    assert (steps.workers, steps.nodes, steps.micro_batches, steps.seconds) == (4, 2, 16, 0.256)


def test_a_run_that_tells_its_computing(tmp_path):
    """0.4 s of computing on each of 2 workers, for 8 micro-batches: 0.1 s each."""
    told = [(256, 100.0, {"compute_seconds": seconds}) for seconds in (9, 0.4, 0.3, 0.5)]
    steps = measured.read([a_run(tmp_path / "run", hosts=("a", "b"), steps=told)]).steps
    assert steps.computing == pytest.approx(0.1)
    assert seconds_of(steps, config("--config", "fashion_mnist")) == pytest.approx(0.1)
    mixed = [*told, (256, 100.0, {})]
    assert measured.read([a_run(tmp_path / "mixed", hosts=("a", "b"), steps=mixed)]).steps.computing is None


def test_several_results_together(tmp_path):
    names = [saved(tmp_path / "loader.json", LOADER), saved(tmp_path / "step.json", STEP)]
    found = measured.read(names)
    assert found.loader == 640 and found.steps.seconds == pytest.approx(0.1) and found.links is None
    with pytest.raises(SettingsError, match=r"step.json; another one has told of the steps already"):
        measured.read([names[1], *names])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("", "is no JSON, or damaged"),
        ('{"bench": "loader", "resu', "is no JSON, or damaged"),
        ("\0\0\0", "is no JSON, or damaged"),
        ("[" * 100_000, "is no JSON, or damaged"),
        ("[1, 2]", "is no result of bench; known are loader, step, allreduce"),
        ("{}", "is no result of bench"),
        ({"bench": 3}, "is no result of bench"),
        ({"bench": "decode"}, "is of the kind decode; known are"),
        ({"bench": "loader"}, "results.ours.images_per_second is missing; it must be a number above 0"),
        ({"bench": "loader", "results": []}, "results.ours.images_per_second is missing"),
        ({"bench": "loader", "results": {"ours": {"images_per_second": {"median": -1}}}}, "images_per_second is"),
        ({"bench": "loader", "results": {"ours": {"images_per_second": True}}}, "images_per_second is 'True'"),
        ('{"bench": "loader", "results": {"ours": {"images_per_second": NaN}}}', "images_per_second is 'nan'"),
        ('{"bench": "loader", "results": {"ours": {"images_per_second": 1e-300}}}', "images_per_second is '1e-300'"),
        ({"bench": "loader", "results": {"ours": {"images_per_second": 10**400}}}, "images_per_second is '1000"),
        ({"bench": "step", "results": {"images_per_second": 5}}, "results.micro_size is missing; it must be a whole"),
        ({"bench": "step", "results": {"images_per_second": 5, "micro_size": 10**400}}, "results.micro_size is '1000"),
        ({"bench": "step", "results": {"images_per_second": 5, "micro_size": 1.5}}, "results.micro_size is '1.5'"),
        (
            {"bench": "step", "results": {"images_per_second": 5, "micro_size": 32, "workers": 3, "nodes": 2}},
            "has 3 workers on 2 nodes; must be as many on each",
        ),
        ({"bench": "allreduce", "results": {}}, "results is '{}'; it must be a list"),
        ({"bench": "allreduce", "results": []}, "results is '[]'; it must be a list"),
        ({"bench": "allreduce", "results": [5]}, "workers is missing; it must be a whole number"),
        ({"bench": "allreduce", "results": [{"workers": 1}]}, "has one with 1 worker; an all-reduce takes 2 or more"),
        ({"bench": "allreduce", "results": [{"workers": 2, "bytes": 5}]}, "seconds is missing"),
        ({"bench": "allreduce", "results": all_reduces(1e-3, 1e9)[:1]}, "are of one size; alpha and beta need two"),
        (
            {"bench": "allreduce", "results": [{"workers": 2, "bytes": 10**n, "seconds": 9 - n} for n in (3, 8)]},
            "take no longer for more bytes; measure larger ones",
        ),
    ],
)
def test_damaged_results_and_those_of_another_kind(result, message, tmp_path):
    name = saved(tmp_path / "result.json", result)
    with pytest.raises(DataError) as caught:
        measured.read([name])
    assert str(caught.value).startswith(f"--bench: {name}; ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path):
    for name, message in (("none.json", "no such file"), (".", "holds no run (no config.yaml)")):
        with pytest.raises(SettingsError) as caught:
            measured.read([str(tmp_path / name)])
        assert message in str(caught.value)


def test_folders_that_tell_nothing(tmp_path):
    begun = a_run(tmp_path / "begun")
    lost = a_run(tmp_path / "lost", steps=[(256, 100, {})])
    (tmp_path / "lost" / "status.json").write_text("{}")
    negative = a_run(tmp_path / "negative", steps=[(256, -100, {})])
    for run, message in (
        (begun, "metrics.jsonl has no steps yet; wait for some"),
        (lost, "workers is missing; it must be a list"),
        (negative, "images_per_second is '-100'; it must be a number above 0"),
    ):
        with pytest.raises(DataError) as caught:
            measured.read([run])
        assert message in str(caught.value)


def test_a_run_of_a_network_of_ones_own(tmp_path):
    run = a_run(tmp_path / "run", "--model.name", "mine:net", steps=[(256, 100, {})])
    with pytest.raises(SettingsError, match="trains mine:net, none of the table's; give --step-ms"):
        seconds_of(measured.read([run]).steps)


def test_a_run_in_another_precision(tmp_path):
    run = a_run(tmp_path / "run", "--precision", "bf16", steps=[(256, 100, {})])
    with pytest.raises(SettingsError, match="run; is in bf16; plan with --precision bf16, or give --step-ms"):
        seconds_of(measured.read([run]).steps)
