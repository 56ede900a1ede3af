"""A plan for people, as text, and for scripts, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hvd_imagenet import schedule
from hvd_imagenet.planner.advice import warnings
from hvd_imagenet.planner.allreduce import ALGORITHMS, bandwidth_needed, sent
from hvd_imagenet.planner.cluster import Link
from hvd_imagenet.planner.memory import memory
from hvd_imagenet.planner.run import Run
from hvd_imagenet.planner.units import bits_per_second, bytes_per_second, duration, in_bytes, milliseconds

COLUMNS = ("workers", "nodes", "global batch", "each", "step", "all-reduce", "efficiency", "images/s", "time to train")


def as_json(run: Run, assumed: list[str]) -> str:
    """Everything on one line: times in seconds, rates and sizes in bytes, shares as fractions."""
    config = run.config
    plan = {
        "model": config.model.name,
        "parameters": run.network.parameters,
        "epochs": config.epochs,
        "steps": run.policy.total_steps,
        "samples": run.policy.last_sample,
        "images_per_second": run.images_per_second,
        "efficiency": run.efficiency,
        "seconds": run.seconds,
        "node_bytes_per_second": run.node_rate,
        "storage_bytes_per_second": run.speed.storage,
        "cluster": _cluster(run),
        "step": _step(run),
        "allreduce": _allreduce(run),
        "memory": memory(run.main_step, config.data.image_size, run.at_once),
        "warnings": warnings(run),
        "assumed": assumed,
        "table": [_row(other) for other in run.others()],
    }
    return json.dumps(plan, allow_nan=False)


def show(run: Run, assumed: list[str], console: Console) -> None:
    """The schedule, what is against the plan, what a step and the run take, the table, and what was assumed."""
    cluster = run.cluster
    nodes = f"{cluster.nodes:,} nodes of {cluster.per_node}" if cluster.nodes > 1 else "one node"
    console.print(
        f"{run.config.model.name}, {run.network.parameters:,} parameters, on {cluster.workers:,} "
        f"worker{'s'[: cluster.workers != 1]}, {nodes}\n",
        style="bold",
    )
    schedule.print_table(run.policy)
    for warning in warnings(run):
        console.print(Text.assemble(("\nwarning  ", "yellow"), warning), soft_wrap=True)
    console.print()
    console.print(_figures(run))
    console.print()
    console.print(_table(run))
    if any(other.raised for other in run.others()):
        console.print("* raised, so that each worker has a micro-batch: the recipe's own batch is smaller")
    if assumed:
        console.print("\nassumed, and what to give instead")
        for words in assumed:
            console.print(f"  {words}", soft_wrap=True)


def _figures(run: Run) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(run):
        table.add_row(name, text)
    return table


def _lines(run: Run) -> list[tuple[str, str]]:
    step, cluster, found = run.main_step, run.cluster, _allreduce(run)
    lines = []
    if cluster.nodes > 1:
        lines.append(("between nodes", _link(cluster.network, bits_per_second)))
    if cluster.per_node > 1:
        lines.append(("inside a node", _link(cluster.inside, bytes_per_second)))
    if cluster.workers > 1:
        partners = "node" if cluster.nodes > 1 else "worker"
        lines += [
            (
                "gradients",
                f"{in_bytes(run.network.wire_bytes)}; each {partners} sends, and is sent, "
                f"{in_bytes(found['sent_bytes'])} per step",
            ),
            (
                "bandwidth needed",
                f"{bits_per_second(found['needed_bytes_per_second'])} for a {partners}, to be done within the "
                f"{milliseconds(step.speed.micro_batch)} of a micro-batch",
            ),
            (
                "all-reduce",
                "by itself, in one go: "
                + ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in found["seconds"].items())
                + f"; {step.transport.name} takes the {found['algorithm']}",
            ),
        ]
    waits = f", waiting for the slowest node {milliseconds(step.slowest)}" if step.slowest else ""
    reduces = f", all-reduce not hidden by the backward {milliseconds(step.exposed)}" if cluster.workers > 1 else ""
    feeds = f"; but its images take {milliseconds(step.seconds)} to come" if step.seconds > step.working else ""
    needed = memory(step, run.config.data.image_size, run.at_once)
    return lines + [
        ("step", f"{milliseconds(step.working)}: computing {milliseconds(step.computing)}{waits}{reduces}{feeds}"),
        ("efficiency", f"{run.efficiency:.1%} of {cluster.workers:,} times a worker that is alone"),
        ("speed", f"{run.images_per_second:,.0f} images/s"),
        ("time to train", f"{duration(run.seconds)}, without evaluations and checkpoints"),
        (
            "data",
            f"{bytes_per_second(run.node_rate)} read by each node"
            + (f", which can read {bytes_per_second(run.speed.storage)}" if run.speed.storage else ""),
        ),
        (
            "memory",
            f"{in_bytes(sum(needed.values()))} for each worker: "
            + ", ".join(f"{what} {in_bytes(count)}" for what, count in needed.items()),
        ),
    ]


def _link(link: Link, shown: Callable[[float], str]) -> str:
    return f"{shown(link.rate)} without headers, {1e6 * link.latency:.3g} µs for a small message"


def _table(run: Run) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for other in run.others():
        step, own = other.main_step, other.cluster == run.cluster
        table.add_row(
            f"{other.cluster.workers:,}",
            f"{other.cluster.nodes:,}",
            f"{'* ' if other.raised else ''}{step.micro_batches * step.images:,}",
            f"{step.share}",
            milliseconds(step.seconds),
            milliseconds(step.exposed),
            f"{other.efficiency:.1%}",
            f"{other.images_per_second:,.0f}",
            duration(other.seconds),
            style="bold" if own else None,
        )
    return table


def _cluster(run: Run) -> dict[str, Any]:
    cluster = run.cluster
    links = {
        name: {"latency_seconds": link.latency, "bytes_per_second": link.rate}
        for name, link in (("network", cluster.network), ("inside", cluster.inside))
    }
    return {"workers": cluster.workers, "nodes": cluster.nodes, "per_node": cluster.per_node, **links}


def _step(run: Run) -> dict[str, Any]:
    step = run.main_step
    return {
        "global_batch": step.micro_batches * step.images,
        "micro_batches": step.micro_batches,
        "each": step.share,
        "micro_batch_seconds": step.speed.micro_batch,
        "seconds": step.seconds,
        "computing_seconds": step.computing,
        "slowest_seconds": step.slowest,
        "exposed_seconds": step.exposed,
        "reading_seconds": step.reading,
        "decoding_seconds": step.decoding,
        "efficiency": step.efficiency,
        "images_per_second": step.images_per_second,
    }


def _allreduce(run: Run) -> dict[str, Any]:
    """Of all gradients at once."""
    cluster, count = run.cluster, run.network.wire_bytes
    partners = cluster.nodes if cluster.nodes > 1 else cluster.workers
    return {
        "transport": run.transport.name,
        "gradient_bytes": count,
        "sent_bytes": sent(partners, count),
        "needed_bytes_per_second": bandwidth_needed(partners, count, run.speed.micro_batch),
        "seconds": {name: algorithm(cluster, count) for name, algorithm in ALGORITHMS.items()},
        "algorithm": run.transport.algorithm(cluster, count),
    }


def _row(run: Run) -> dict[str, Any]:
    return {
        "workers": run.cluster.workers,
        "nodes": run.cluster.nodes,
        **_step(run),
        "raised": run.raised,
        "run_efficiency": run.efficiency,
        "run_images_per_second": run.images_per_second,
        "run_seconds": run.seconds,
    }
