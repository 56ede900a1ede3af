"""Elastic jobs of a real two-node Slurm by launch/slurm/elastic.sbatch: a node fails, and the job goes on."""

import json
import sys
import time
from pathlib import Path

import pytest
from slurm import Cluster, require_slurm
from undisturbed import ENDLESS, OPTIONS, SLOW, further, require_undisturbed

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch" / "slurm" / "elastic.sbatch"
SECONDS = 240


@pytest.fixture(scope="module")
def cluster(session_folder):
    require_slurm()
    with Cluster(session_folder / "slurm-elastic") as running:
        yield running


def test_a_node_fails_and_the_job_goes_on_and_after_its_time_on_both_again(cluster, image_folder, tmp_path):
    recipe, run = tmp_path / "slow.yaml", tmp_path / "run"
    recipe.write_text(SLOW)
    options = ["--config", recipe, "--data.path", image_folder, *OPTIONS]
    places = ["--nodes=2", "--ntasks-per-node=1", "--time=60"]
    environment = {"CHECKOUT": ROOT, "VENV": sys.prefix, "NETWORK_INTERFACE": "lo", "STALL_SECONDS": 8}
    job = cluster.submit(tmp_path, *places, SCRIPT, *options, *ENDLESS, "--run", "run", **environment)

    def log():
        return (tmp_path / f"slurm-{job}.log").read_text()

    def until_on(*hosts):
        """Wait until the run goes on there, and has taken some steps."""
        give_up, more = time.monotonic() + SECONDS, None
        while not (more and more()):
            status = json.loads((run / "status.json").read_text()) if (run / "status.json").exists() else {}
            there = sorted(worker["host"] for worker in status.get("workers", []))
            if status.get("status") == "running" and there == list(hosts):
                more = more or further(run)
            assert time.monotonic() < give_up, log()
            time.sleep(0.1)

    until_on("n1", "n2")
    cluster.ask("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    until_on("n1")
    assert cluster.state(job) == "RUNNING"
    cluster.ask("scontrol", "update", "NodeName=n2", "State=RESUME")
    cluster.ask("scancel", "--batch", "--signal=USR1", job)  # as two minutes before its time is up
    assert cluster.wait(job, "PENDING", "FAILED") == "PENDING", log()
    until_on("n1", "n2")
    (run / "STOP").touch()
    assert cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    assert cluster.completions(job)[-1] == ("FAILED", "75:0") and cluster.state(job, "Restarts") == "1"
    restarts = require_undisturbed(run, options, tmp_path)
    assert [event["workers"] for event in restarts] == [1, 2] and restarts[0]["workers_before"] == 2
