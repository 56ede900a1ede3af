"""What can only be seen over all workers: what is missing, differs, or is taken twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from hvd_imagenet.doctor.findings import Finding, failure, of_error, ok, warning
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.host import Place, require_own_gpus

SKEW_WARNING, SKEW_FAILURE = 1.0, 60.0  # seconds
# Facts that tell versions by name: of which check, how bad it is if they differ, what to do. Kernels may differ.
ENVIRONMENT = "install the same on all hosts, or one environment in a folder that all see"
ALIKE = {
    "versions": ("versions", failure, ENVIRONMENT),
    "loaded": ("versions", failure, f"{ENVIRONMENT}; is LD_LIBRARY_PATH the same on all?"),
    "mpi": ("MPI", warning, "use one MPI on all hosts: workers of different series do not find each other"),
    "fabric": ("interfaces", warning, "look at the host with the fewest or slowest ports: ibstat, cables, switch"),
    "drivers": ("GPU", warning, "install one driver on all hosts: the oldest decides which CUDA they can run"),
}


def compared(
    hosts: list[str | None], facts: list[dict[str, Any]], clocks: list[float | None] | None
) -> Iterator[Finding]:
    """The lines of the whole job.

    Args:
        hosts: of each worker, by rank; None: not heard of.
        facts: of each worker's checks, by name; clocks: how many seconds each is ahead of worker 0; None: not known.
    """
    for rank, host in enumerate(hosts):
        if host is None:
            text = f"worker {rank} is not heard of: it has not started, or its host does not reach worker 0"
            yield failure("workers", text, "look at what its host printed; open the ports between the hosts")
    if len(hosts) > 1:
        for fact, (check, worse, remedy) in ALIKE.items():
            known = {rank: known[fact] for rank, known in enumerate(facts) if fact in known}
            differing = _differing(known, hosts)
            if differing:
                yield worse(check, f"not the same everywhere: {'; '.join(differing)}", remedy)
        yield from _contents(hosts, facts)
        yield from _clocks(hosts, clocks) if clocks else ()
    yield from _reading(hosts, facts)
    if None not in hosts:
        yield from _gpus(hosts, facts)


def _gpus(hosts: list[str | None], facts: list[dict[str, Any]]) -> Iterator[Finding]:
    places = [Place(host, frozenset(), fact.get("gpu")) for host, fact in zip(hosts, facts, strict=True)]
    try:
        require_own_gpus(places)
    except SettingsError as error:
        yield of_error("GPU", str(error))


def _differing(known: dict[int, dict[str, str]], hosts: list[str | None]) -> list[str]:
    """What of these versions by name, of each worker, is not the same on all: a text for each."""
    names = sorted({name for versions in known.values() for name in versions})
    differing = []
    for name in names:
        by_value = _ranks_by_value({rank: versions.get(name, "none") for rank, versions in known.items()})
        if len(by_value) > 1:
            differing.append(f"{name}: {_listed(by_value, hosts)}")
    return differing


def _contents(hosts: list[str | None], facts: list[dict[str, Any]]) -> Iterator[Finding]:
    known = {rank: fact["contents"] for rank, fact in enumerate(facts) if "contents" in fact}
    for split in ("train", "val") if known else ():
        by_value = _ranks_by_value({rank: contents[split] for rank, contents in known.items()})
        if len(by_value) > 1:
            text = f"{split} is not the same data set everywhere: checksum {_listed(by_value, hosts)}"
            yield failure("data", text, "copy one of them to all hosts")
        else:
            yield ok("data", f"{split} has the same checksum on all workers, {next(iter(by_value))}")


def _reading(hosts: list[str | None], facts: list[dict[str, Any]]) -> Iterator[Finding]:
    """What all workers read at the same time, from the disk or, as after an earlier read, from memory."""
    known = {rank: fact["reading"] for rank, fact in enumerate(facts) if "reading" in fact}
    if known:
        images, read = (sum(speed[f"{what}_per_second"] for speed in known.values()) for what in ("images", "bytes"))
        slowest = min(known, key=lambda rank: known[rank]["images_per_second"])
        text = (
            f"read in random order: {images:,.0f} images/s, {read / 1e6:,.1f} MB/s over all; slowest worker {slowest}"
        )
        yield ok("data", f"{text} on {hosts[slowest]}, {known[slowest]['images_per_second']:,.0f} images/s")


def _clocks(hosts: list[str | None], clocks: list[float | None]) -> Iterator[Finding]:
    known = [(offset, host) for offset, host in zip(clocks, hosts, strict=True) if offset is not None and host]
    (least, behind), (most, ahead) = min(known), max(known)
    skew = most - least
    if skew > SKEW_WARNING:
        worse = failure if skew > SKEW_FAILURE else warning
        yield worse("clocks", f"{ahead} is {skew:,.1f} s ahead of {behind}", "start chrony or ntpd on both")
    else:
        yield ok("clocks", f"within {max(skew, 0.001):.3f} s of each other")


def _ranks_by_value(values: dict[int, str]) -> dict[str, list[int]]:
    ranks = defaultdict(list)
    for rank, value in values.items():
        ranks[value].append(rank)
    return ranks


def _listed(by_value: dict[str, list[int]], hosts: list[str | None]) -> str:
    return ", ".join(f"{value} on {hosts[ranks[0]]} (worker {ranks[0]})" for value, ranks in by_value.items())
