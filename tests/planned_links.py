"""What the planner says of a step on two hosts behind a slow link, and what the step takes.

    python tests/planned_links.py [CASE ...]        as root, on a machine that has nothing else to do

Hosts are network namespaces (``hosts.py``), each with one core of this machine and one worker; what node2 sends, and
is sent, is limited by tc. In each case, both workers train together; before and after, each trains alone, at the same
time as the other. The planner is told the median of the steps alone (--step-ms) and the link's rate (--network), and
has to say the median of the steps together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hosts import Hosts, HostsJob, require_hosts
from jobs import PYTHON
from runs import metrics
from test_hosts import some_of_fashion_mnist

CORES = {"node1": [0], "node2": [1]}  # of each host
SAMPLES, MICRO = 640, 32
FIRST = 3  # steps that are not counted: memory is touched, and Horovod hears of each tensor, for the first time
ALONE = 20  # steps that are, of a worker that is alone
PATIENCE = 1800


@dataclass(frozen=True)
class Case:
    """A network behind a link.

    Attributes:
        model: its name; size: of its images, in pixels.
        rate: as both the planner and tc take it.
        steps: that are counted; each: micro-batches of each worker in a step.
    """

    model: str
    size: int
    rate: str
    steps: int
    each: int = 1


CASES = {  # with 11.2 M parameters and few operations the all-reduce dominates; with 0.86 M and many, computing
    "resnet18-100mbit": Case("resnet18", 28, "100mbit", 8),
    "resnet18-300mbit": Case("resnet18", 28, "300mbit", 15),
    "resnet18-1gbit": Case("resnet18", 28, "1gbit", 25),
    "resnet18-1gbit-four-each": Case("resnet18", 28, "1gbit", 15, each=4),
    "resnet56-100mbit": Case("resnet56", 28, "100mbit", 20),
    "resnet56-1gbit": Case("resnet56", 28, "1gbit", 20),
}


@dataclass(frozen=True)
class Outcome:
    """Seconds: of a micro-batch alone before and after, and of a step, predicted and measured."""

    before: float
    after: float
    predicted: float
    exposed: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1

    def __str__(self) -> str:
        before, after, predicted, exposed, measured = (
            f"{1000 * seconds:,.0f}"
            for seconds in (self.before, self.after, self.predicted, self.exposed, self.measured)
        )
        return (
            f"alone {before} and {after} ms; together predicted {predicted} ms, of them {exposed} for an all-reduce "
            f"that is not hidden, measured {measured} ms: {self.error:+.1%}"
        )


def main(names: list[str]) -> None:
    require_hosts()
    with tempfile.TemporaryDirectory() as folder:
        images = some_of_fashion_mnist(Path(folder) / "images")
        for name in names or CASES:
            there = Path(folder) / name
            there.mkdir()
            with Hosts(2, there) as hosts:
                print(f"{name}: {outcome(hosts, CASES[name], images, there)}", flush=True)


def outcome(hosts: Hosts, case: Case, images: Path, folder: Path) -> Outcome:
    """Let the hosts' workers train alone, together, and alone again."""
    for name, cores in CORES.items():
        hosts.bind(name, cores)
    before = alone(hosts, case, images, folder / "before")
    hosts.set_link_speed("node2", case.rate)
    size = 2 * case.each * MICRO
    together = steps(job(hosts, case, images, folder / "together", list(CORES), size, case.steps), size)
    after = alone(hosts, case, images, folder / "after")
    step = planned(case, median(before + after))["step"]
    figures = median(before), median(after), step["seconds"], step["exposed_seconds"], median(together)
    return Outcome(*figures)


def alone(hosts: Hosts, case: Case, images: Path, folder: Path) -> list[float]:
    """Seconds of the steps of two workers, each alone on its host with one micro-batch to a step."""
    folder.mkdir()
    jobs = [job(hosts, case, images, folder / name, [name], MICRO, ALONE) for name in CORES]
    return [seconds for each in jobs for seconds in steps(each, MICRO)]


def job(hosts: Hosts, case: Case, images: Path, run: Path, names: list[str], size: int, count: int) -> HostsJob:
    """Train with one worker on each of these hosts, `size` images to a step."""
    options = [*settings(case, size), "--data.path", images, "--epochs", (FIRST + count) * size / SAMPLES]
    options += ["--log.every_steps", 1, "--evaluate.every_epochs", 10**6, "--checkpoint.every_epochs", "null"]
    return HostsJob(hosts, "horovodrun.sh", run, *options, HOSTS=",".join(f"{name}:1" for name in names))


def settings(case: Case, size: int) -> list:
    found = ["--config", "fashion_mnist", "--model.name", case.model, "--data.image_size", case.size]
    return [*found, "--data.train_samples", SAMPLES, "--batch.micro_size", MICRO, "--batch.global_size", size]


def steps(job: HostsJob, size: int) -> list[float]:
    """The seconds of each step of a job, once it has ended, and ended well."""
    if job.end(PATIENCE):
        raise RuntimeError(job.log())
    return [size / event["images_per_second"] for event in metrics(job.run, "step")][FIRST:]


def planned(case: Case, seconds: float) -> dict:
    """What ``hvd-imagenet plan`` says."""
    options = ["--workers", 2, "--per-node", 1, "--network", case.rate, "--transport", "gloo", "--json"]
    command = [*PYTHON, "plan", *settings(case, 2 * case.each * MICRO), *options, "--step-ms", 1000 * seconds]
    return json.loads(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
