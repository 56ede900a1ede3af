"""What was measured before, and calibrates a plan: results of ``hvd-imagenet bench``, or the folder of a run.

A result is a JSON object with the key ``bench``; of each kind, these keys are read, where F is a number above 0, or
{"median": such a number}:

    {"bench": "loader", "results": {"ours": {"images_per_second": F}}}
        Images that one worker decodes.
    {"bench": "step", "results": {"images_per_second": F, "micro_size": 32,
                                  "workers": 1, "nodes": 1, "micro_batches": 1}}
        Images that so many workers on so many nodes train on, all together, by steps of so many micro-batches in all.
        workers and nodes are 1 where they are missing, micro_batches as many as workers.
    {"bench": "allreduce", "results": [{"bytes": 1048576, "seconds": F, "workers": 2, "nodes": 2, "transport": "nccl"}]}
        All-reduces of two sizes or more. nodes are as many as workers where they are missing; of several transports,
        the one that is fastest between nodes counts.

Of a run's folder, the steps since its last restart are read: images per second, and the seconds of it that are
computing where the run has written them down.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from hvd_imagenet import settings
from hvd_imagenet.config import Config
from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.metrics import lines
from hvd_imagenet.planner.allreduce import ring_steps, sent
from hvd_imagenet.planner.cluster import Link
from hvd_imagenet.planner.results import Values, load
from hvd_imagenet.run_directory import RunDirectory


@dataclass(frozen=True)
class Steps:
    """Steps that were taken.

    Attributes:
        source: the file or folder.
        config: the run's settings; None: those of what is planned, but for `micro_size`.
        micro_batches: of a step, over all workers.
        seconds: of a step; computing: of one micro-batch; None: not known.
    """

    source: str
    config: Config | None
    micro_size: int
    micro_batches: int
    workers: int
    nodes: int
    seconds: float
    computing: float | None = None

    def __post_init__(self):
        if self.workers % self.nodes:
            raise DataError(
                f"--bench: {self.source}; has {self.workers} workers on {self.nodes} nodes; must be as many on each"
            )


@dataclass(frozen=True)
class Links:
    """Links as all-reduces have found them, headers and all.

    Attributes:
        transport: NCCL, Gloo or MPI, in small letters; empty: not told.
        network: between nodes; inside: between the workers of one; None: not measured.
    """

    source: str
    transport: str
    network: Link | None
    inside: Link | None


@dataclass(frozen=True)
class Measured:
    """All that was measured; loader: images per second of one worker. None: not measured."""

    steps: Steps | None = None
    loader: float | None = None
    links: Links | None = None


def read(names: list[str]) -> Measured:
    """What files and folders of runs tell together.

    Raises:
        SettingsError: one is not there, or two tell the same.
        DataError: one is damaged, or of a kind that tells nothing here.
    """
    found = Measured()
    for name in names:
        what, value = ("steps", steps_of_run(RunDirectory(Path(name)))) if Path(name).is_dir() else _of_file(name)
        if getattr(found, what) is not None:
            raise SettingsError(f"--bench: {name}; another one has told of the {what} already; give one of them")
        found = replace(found, **{what: value})
    return found


def _of_file(name: str) -> tuple[str, Any]:
    result = Values(name, load(name))
    kind = result.text("bench")
    if kind == "loader":
        return "loader", result.number("results", "ours", "images_per_second")
    if kind == "step":
        return "steps", _steps(result)
    if kind == "allreduce":
        return "links", _links(result)
    told = f"is of the kind {kind}" if kind else "is no result of bench"
    raise DataError(f"--bench: {name}; {told}; known are loader, step, allreduce, and the folder of a run")


def _steps(result: Values) -> Steps:
    workers = result.count("results", "workers", otherwise=1)
    micro_batches = result.count("results", "micro_batches", otherwise=workers)
    size, nodes = result.count("results", "micro_size"), result.count("results", "nodes", otherwise=1)
    seconds = micro_batches * size / result.number("results", "images_per_second")
    return Steps(result.source, None, size, micro_batches, workers, nodes, seconds)


def _links(result: Values) -> Links:
    found = defaultdict(lambda: {"network": [], "inside": []})
    for row in result.list("results"):
        workers = row.count("workers")
        if workers == 1:
            raise DataError(f"--bench: {result.source}; results has one with 1 worker; an all-reduce takes 2 or more")
        where = "network" if row.count("nodes", otherwise=workers) > 1 else "inside"
        found[row.text("transport")][where].append((workers, row.number("bytes"), row.number("seconds")))
    links = [
        Links(result.source, transport, *(fitted(result.source, rows[where]) for where in ("network", "inside")))
        for transport, rows in found.items()
    ]
    return max(links, key=lambda one: (one.network is not None, (one.network or one.inside).rate))


def fitted(source: str, measured: list[tuple[int, float, float]]) -> Link | None:
    """Alpha and beta of all-reduces around a ring, by least squares of the relative errors, neither below 0.

    seconds = 2 (p - 1) alpha + 2 (p - 1) / p bytes beta

    Args:
        measured: workers p, bytes and seconds of each; none of them: no link.

    Raises:
        DataError: they are all of one size, or take no longer for more bytes.
    """
    if not measured:
        return None
    from scipy.optimize import nnls  # half a second, for those who have measured

    if len({count for _, count, _ in measured}) == 1:
        raise DataError(f"--bench: {source}; all of its all-reduces are of one size; alpha and beta need two or more")
    rows = [(ring_steps(workers) / seconds, sent(workers, count) / seconds) for workers, count, seconds in measured]
    (latency, per_byte), _ = nnls(rows, [1.0] * len(rows))
    if per_byte == 0:
        raise DataError(f"--bench: {source}; its all-reduces take no longer for more bytes; measure larger ones")
    return Link(float(latency), float(1 / per_byte))


def steps_of_run(run: RunDirectory) -> Steps:
    """The steps of a run since its last restart that have its last batch; without the first one, if there are others.

    Raises:
        SettingsError: there is no run; DataError: it has taken no steps, or its files are damaged.
    """
    source = str(run.path)
    if not run.config.exists():
        raise SettingsError(f"--bench: {source}; holds no run (no config.yaml)")
    config = settings.load(run.config)
    hosts = [worker.text("host") for worker in Values(source, load(str(run.status))).list("workers")]
    taken = _last_steps(run)
    if not taken:
        raise DataError(f"--bench: {source}; metrics.jsonl has no steps yet; wait for some (log.every_steps)")
    size = taken[-1].count("global_batch")
    alike = [one for one in taken if one.count("global_batch") == size]
    alike = alike[1:] or alike
    micro_batches = size // config.batch.micro_size
    computing = None
    if all(one.has("compute_seconds") for one in alike):
        computing = median(one.number("compute_seconds") for one in alike) * len(hosts) / micro_batches
    seconds = size / median(one.number("images_per_second") for one in alike)
    return Steps(
        source, config, config.batch.micro_size, micro_batches, len(hosts), len(set(hosts)), seconds, computing
    )


def _last_steps(run: RunDirectory) -> list[Values]:
    steps: list[Values] = []
    for event in lines.read(run.metrics) if run.metrics.exists() else []:
        kind = event.get("event") if isinstance(event, dict) else None
        if kind == "restart":
            steps.clear()
        elif kind == "step":
            steps.append(Values(str(run.path), event))
    return steps
