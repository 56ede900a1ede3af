"""What the system grants a worker: open files, processes, locked memory."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path

from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning

FILES_NEEDED, FILES_WANTED = 256, 1024  # sockets to other workers, shards, libraries
PROCESSES_NEEDED, PROCESSES_WANTED = 256, 2048  # threads count as processes
INFINIBAND = Path("/sys/class/infiniband")  # RoCE, too


def look(launch: dict) -> Found:
    """All limits of this worker."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return Found(
        [
            at_least("open files", files, FILES_NEEDED, FILES_WANTED, "ulimit -n 65536"),
            at_least("processes", processes, PROCESSES_NEEDED, PROCESSES_WANTED, "ulimit -u 65536"),
            _locked_memory(),
        ],
        {"fabric": {"InfiniBand": active_ports()}},
    )


def at_least(check: str, limit: int, needed: int, wanted: int, command: str) -> Finding:
    """A limit of a process, held against what a worker needs, and what it should rather have."""
    remedy = f"{command} before the launch, or in /etc/security/limits.conf; in a container by its options"
    if limit != resource.RLIM_INFINITY and limit < wanted:
        return (failure if limit < needed else warning)(check, f"{limit:,} at most; give {wanted:,} or more", remedy)
    return ok(check, "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,} at most")


def active_ports() -> str:
    """The ports of InfiniBand or RoCE that are up, by their rates, such as 8 x 400 Gb/sec (4X NDR).

    To be held against those of other hosts: where a cable is loose, NCCL makes do with what is left, or with TCP.
    """
    rates = Counter(
        (port / "rate").read_text().strip()
        for port in INFINIBAND.glob("*/ports/*")
        if "ACTIVE" in (port / "state").read_text()
    )
    return ", ".join(f"{count} x {rate}" for rate, count in sorted(rates.items())) or "none"


def _locked_memory() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    text = "no limit" if limit == resource.RLIM_INFINITY else f"{limit / 2**20:,.1f} MiB at most"
    if limit != resource.RLIM_INFINITY and INFINIBAND.is_dir() and any(INFINIBAND.iterdir()):
        text = f"{text}; InfiniBand, which this host has, wants to lock its buffers"
        return warning("locked memory", text, "ulimit -l unlimited; docker run --ulimit memlock=-1")
    return ok("locked memory", text)
