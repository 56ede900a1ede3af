"""What the planner says of a step on two hosts behind slow links, and what the step takes.

    python tests/planned_links.py [CASE ...]        as root

Hosts are network namespaces (``hosts.py``), each with one core of this machine and one worker; what node2 sends, and
is sent, is limited by tc. In each case, one worker on each host trains by itself first, at the same time: the median of
its steps is the planner's --step-ms, and the link's rate its --network. Then both train together.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hosts import LAUNCHER, Hosts, HostsJob, require_hosts
from runs import metrics
from test_hosts import some_of_fashion_mnist

CORES = {"node1": [0], "node2": [1]}
FIRST = 3  # steps that are not counted: memory is touched, and Horovod hears of each tensor, for the first time
PATIENCE = 1200


@dataclass(frozen=True)
class Case:
    """A network in micro-batches of some images, behind a link.

    Attributes:
        rate: as the planner's --network takes it, and tc without its /s; steps: that are counted.
        each: micro-batches of each worker in a step.
    """

    model: str
    micro: int
    rate: str
    steps: int
    each: int = 1


CASES = {
    "resnet18-100mbit": Case("resnet18", 32, "100mbit", 8),
    "resnet18-300mbit": Case("resnet18", 32, "300mbit", 15),
    "resnet18-1gbit": Case("resnet18", 32, "1gbit", 25),
    "resnet18-4x-300mbit": Case("resnet18", 32, "300mbit", 10, each=4),
    "resnet56-1gbit": Case("resnet56", 32, "1gbit", 40),
    "resnet56-100mbit": Case("resnet56", 32, "100mbit", 30),
}


def main(names: list[str]) -> None:
    require_hosts()
    with tempfile.TemporaryDirectory() as folder:
        images = some_of_fashion_mnist(Path(folder) / "images")
        for name in names or CASES:
            with Hosts(2, made(Path(folder) / name)) as hosts:
                alone, together = measured(hosts, CASES[name], images, Path(folder) / name)
            told = planned(hosts, CASES[name], alone)
            step = told["step"]
            print(
                f"{name}: alone {1e3 * alone:.0f} ms a micro-batch; a step predicted {1e3 * step['seconds']:.0f} ms "
                f"({1e3 * step['exposed_seconds']:.0f} of them all-reduce), measured {1e3 * together:.0f} ms: "
                f"{step['seconds'] / together - 1:+.1%}; ",
                flush=True,
            )


def measured(hosts: Hosts, case: Case, images: Path, folder: Path) -> tuple[float, float]:
    """Seconds of a step of one micro-batch on a worker that is alone, and of the case's on both."""
    for name, cores in CORES.items():
        hosts.bind(name, cores)
    jobs = [job(hosts, case, images, folder / name, [name], case.micro) for name in CORES]
    alone = median(time for job in jobs for time in steps(job, case.micro))
    hosts.set_link_speed("node2", case.rate)
    size = case.micro * case.each * len(CORES)
    return alone, median(steps(job(hosts, case, images, folder / "both", list(CORES), size), size))


def job(hosts: Hosts, case: Case, images: Path, run: Path, names: list[str], global_size: int) -> HostsJob:
    """Train with one worker on each of these hosts."""
    options = ["--config", "fashion_mnist", "--data.path", images, "--data.train_samples", 640]
    options += ["--model.name", case.model, "--batch.micro_size", case.micro, "--batch.global_size", global_size]
    options += ["--epochs", (FIRST + case.steps) * global_size / 640, "--log.every_steps", 1]
    options += ["--evaluate.every_epochs", 10**6, "--checkpoint.every_epochs", "null"]
    given = {"HOSTS": ",".join(f"{name}:1" for name in names)}
    return HostsJob(hosts, "horovodrun.sh", run, *options, **given)


def steps(job: HostsJob, global_size: int) -> list[float]:
    """The seconds of each step of a job that is to end well."""
    if job.end(PATIENCE):
        raise RuntimeError(job.log())
    return [global_size / event["images_per_second"] for event in metrics(job.run, "step")][FIRST:]


def planned(hosts: Hosts, case: Case, alone: float) -> dict:
    """What ``hvd-imagenet plan`` says."""
    command = [sys.executable, "-m", "hvd_imagenet.cli", "plan", "--config", "fashion_mnist", "--workers", "2"]
    raise NotImplementedError
    return json.loads(command, LAUNCHER)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])
