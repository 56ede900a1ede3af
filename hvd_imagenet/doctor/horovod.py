"""Horovod, last of all: what it is built with, whether it brings the workers together, how fast it sums."""

from __future__ import annotations

import os
from typing import Any

from hvd_imagenet.backend import PACKAGES
from hvd_imagenet.doctor.child import Child, ChildError
from hvd_imagenet.doctor.findings import Finding, Found, failure, of_error, ok, warning
from hvd_imagenet.doctor.guard import unfinished
from hvd_imagenet.doctor.launch import GLOO, Launch
from hvd_imagenet.doctor.meeting import Meeting
from hvd_imagenet.errors import RunError

CHECK = "Horovod"
LOAD_SECONDS, START_SECONDS, REDUCE_SECONDS = 180, 100, 120  # loading, from a slow file server; Gloo's patience is 60 s
SMALLEST, LARGEST = 2**18, 2**24  # elements
TARGET_SECONDS = 0.25  # of an all-reduce


def look(launch: Launch, meeting: Meeting, collective: Child, facts: dict[str, Any]) -> Found:
    """All of it, as far as it gets: together, so that none waits for one that has failed."""
    found = Found()
    findings = found.findings
    loaded = _ask(findings, collective, LOAD_SECONDS, "load", framework=launch.framework)
    if loaded:
        findings += _built(launch, loaded, facts)
        found.facts["loaded"] = loaded["versions"]
    unreachable = bool(facts.get("unreachable"))
    if not _all(meeting, loaded and not unreachable, LOAD_SECONDS):
        if unreachable:
            findings.append(failure(CHECK, "not started: no other host would reach this one", "see host name"))
        elif loaded:
            findings.append(failure(CHECK, "not started: another worker cannot load it or be reached", "see there"))
        return found
    started = _ask(findings, collective, START_SECONDS, "start", framework=launch.framework)
    if started:
        findings += _met(launch, loaded, started)
    if _all(meeting, started, START_SECONDS) and launch.network and launch.size > 1:
        found += _speed(launch, meeting, collective, facts.get("mbits"))
    return found


def _all(meeting: Meeting, answer: Any, seconds: float) -> bool:
    return all(meeting.gather(bool(answer), seconds))


def _ask(findings: list[Finding], collective: Child, seconds: float, function: str, **arguments: Any) -> Any:
    """The answer; where there is none, a line that says why."""
    try:
        return collective.ask(function, seconds, **arguments)
    except RunError as error:
        findings.append(of_error(CHECK, str(error)))
    except ChildError as error:
        findings.append(unfinished(CHECK, error))
    return None


def _built(launch: Launch, loaded: dict[str, Any], facts: dict[str, Any]) -> list[Finding]:
    has = [name for name, there in loaded["built"].items() if there]
    lacks = [name for name, there in loaded["built"].items() if not there]
    text = f"for {PACKAGES[launch.framework]} built with {', '.join(has)}{', without ' * bool(lacks)}{', '.join(lacks)}"
    versions = ", ".join(f"{name} {version}" for name, version in loaded["versions"].items())
    findings = [ok(CHECK, f"{text}; {versions}" if versions else text)]
    remedy = "run: bash launch/install.sh --gpu"
    if loaded["on_gpu"] and not loaded["built"]["NCCL"]:
        findings.append(warning(CHECK, "built without NCCL: GPUs exchange gradients through the host", remedy))
    if facts.get("gpus") and not loaded["on_gpu"]:
        unseen = f"{PACKAGES[launch.framework]} does not see the GPUs that the driver shows: is it a CPU build?"
        findings.append(warning("GPU", unseen, remedy))
    needed = "Gloo" if launch.kind == GLOO else "MPI"
    if launch.size > 1 and needed not in has:
        findings.append(
            failure(CHECK, f"{launch.launcher} needs {needed}, and it is built without", "build it anew, with it")
        )
    return findings


def _met(launch: Launch, loaded: dict[str, Any], started: dict[str, Any]) -> list[Finding]:
    if started["size"] != launch.size:
        text = (
            f"{launch.launcher} started {launch.size} workers, Horovod sees {started['size']}: each would train alone"
        )
        remedy = "use the mpirun of the MPI that Horovod was built with; under Slurm: srun --mpi=pmix"
        return [failure(CHECK, text, remedy)]
    if started["sum"] != launch.size:
        text = f"an all-reduce of ones over {launch.size} workers gives {started['sum']:g}"
        return [failure(CHECK, text, "run: bash launch/install.sh, and look after the network's hardware")]
    with_nccl = loaded["on_gpu"] and loaded["built"]["NCCL"]
    operations = "NCCL" if with_nccl else os.environ.get("HOROVOD_CPU_OPERATIONS", started["controller"]).capitalize()
    operations = {"Mpi": "MPI", "Nccl": "NCCL"}.get(operations, operations)
    text = f"{launch.size} worker(s) meet over {started['controller']} and sum over {operations}; a sum is right"
    return [ok(CHECK, text)]


def _speed(launch: Launch, meeting: Meeting, collective: Child, mbits: float | None) -> Found:
    """Time of an all-reduce of some size, which fits the slowest link, and of the smallest."""
    elements = int(min(max((mbits or 1000) * 1e6 / 32 * TARGET_SECONDS, SMALLEST), LARGEST))
    elements = meeting.gather(elements, REDUCE_SECONDS)[0]
    found = Found()
    ask = {
        "collective": collective,
        "seconds": REDUCE_SECONDS,
        "function": "reduce_seconds",
        "framework": launch.framework,
    }
    small, large = (_ask(found.findings, **ask, elements=count) for count in (1, elements))
    if small is None or large is None or launch.rank:
        return found
    # In a ring, each worker sends and receives 2 (n - 1) / n of the data.
    rate = 32e-6 * elements * 2 * (launch.size - 1) / launch.size / large
    text = (
        f"Horovod, all-reduce of {4 * elements / 2**20:,.0f} MiB: {1e3 * large:,.1f} ms, {rate:,.0f} Mbit/s per worker"
    )
    found.job.append(ok("network", f"{text}; of 4 bytes: {1e3 * small:,.1f} ms"))
    return found
