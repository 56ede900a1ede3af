"""The cores of this host: which are near each other or near a device, and keeping this process to some of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SYSTEM = Path("/sys")


def near_device(address: str, system: Path = SYSTEM) -> frozenset[int]:
    """The cores of the NUMA node that a PCI device hangs on; none where the system does not tell.

    Args:
        address: the device's, such as 0000:3b:00.0.
    """
    return _listed(system / "bus/pci/devices" / address.lower() / "local_cpulist")


def neighbours_first(cores: frozenset[int], system: Path = SYSTEM) -> list[int]:
    """Cores in an order in which those of a NUMA node stand together, and in it the hardware threads of one core."""
    nodes = {
        core: path.parent.name for path in system.glob("devices/system/node/node*/cpulist") for core in _listed(path)
    }

    def place(core: int) -> tuple[str, int, int]:
        threads = _listed(system / f"devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        return nodes.get(core, ""), min(threads, default=core), core

    return sorted(cores, key=place)


def keep_to(cores: frozenset[int]) -> None:
    """Bind all threads of this process, and with them those that they will start, to these cores."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended meanwhile, or a container forbids it: then they stay where they are
            os.sched_setaffinity(int(thread), cores)


def _listed(path: Path) -> frozenset[int]:
    """The cores of a list in a file, such as 0-15,32-47; none where there is no such file."""
    cores: set[int] = set()
    with suppress(OSError):
        for part in filter(None, path.read_text().strip().split(",")):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)
