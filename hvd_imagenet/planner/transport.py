"""How Horovod sums buckets of gradients over the workers: in cycles, by NCCL, Gloo or MPI, beside the backward."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hvd_imagenet.config import Config
from hvd_imagenet.cycles import CPU_CYCLES, GPU_CYCLE, cpu_cycle, cycle_ms_in, micro_batch_seconds
from hvd_imagenet.planner.allreduce import ALGORITHMS
from hvd_imagenet.planner.cluster import Cluster, Link

WORD = 8  # bytes, of the bits by which workers tell each other in each cycle what is ready


@dataclass(frozen=True)
class Transport:
    """What sums the gradients.

    Attributes:
        name: as Horovod's documentation has it.
        algorithms: names in `ALGORITHMS`; of several, it takes the fastest for the size at hand.
        blocks: Horovod's thread waits for each sum, and looks for what got ready meanwhile when that is over. Otherwise
            the sums of many cycles wait in a queue of the GPU's.
        cycle: seconds from one look at what is ready to the next, at least.
        inside: the link between workers of a node where nothing else is said.
        copying: bytes per second into a bucket.
    """

    name: str
    algorithms: tuple[str, ...]
    blocks: bool
    cycle: float
    inside: Link
    copying: float = math.inf

    def seconds(self, cluster: Cluster, count: float) -> float:
        """How long one all-reduce of so many bytes takes by itself."""
        return min(ALGORITHMS[name](cluster, count) for name in self.algorithms)

    def algorithm(self, cluster: Cluster, count: float) -> str:
        """The algorithm that it takes for so many bytes."""
        return min(self.algorithms, key=lambda name: ALGORITHMS[name](cluster, count))

    def finished(self, cluster: Cluster, tensors: Iterable[tuple[float, int]]) -> float:
        """When all tensors are summed.

        Every cycle begins with an all-reduce of some bits, by which the workers find out what is ready on all of them;
        that is summed, one after the other. What gets ready while Horovod is idle waits for half a cycle, on the mean.

        Args:
            tensors: when each is ready, in seconds, and its bytes; in the order of time.
        """
        waiting, look, end = deque(tensors), 0.0, 0.0
        if cluster.workers == 1:
            return waiting[-1][0] if waiting else 0.0
        while waiting:
            look = max(look, waiting[0][0] + self.cycle / 2)
            taken = []
            while waiting and waiting[0][0] <= look:
                taken.append(waiting.popleft()[1])
            agreed = look + self.seconds(cluster, WORD)
            for count in taken:
                end = max(end, agreed) + self.seconds(cluster, count) + count / self.copying
            look = max(look + self.cycle, end if self.blocks else agreed)
        return end


def as_set(transport: Transport, config: Config, environment: Mapping[str, str]) -> Transport:
    """A transport as the run's settings have it, and where these leave it open, the job's environment, if it does, or
    else the default: on CPUs, of which each worker is taken to have one, with cycles that suit its steps.

    Raises:
        SettingsError: to what makes no sense.
    """
    given = cycle_ms_in(environment)  # looked at in any case: it may make no sense
    cycle = given if config.allreduce.cycle_ms is None else config.allreduce.cycle_ms
    if cycle is None and transport.blocks:
        cycle = cpu_cycle(micro_batch_seconds(config, cores=1))
    return transport if cycle is None else replace(transport, cycle=cycle / 1000)


# PCIe 3.0 between GPUs, whose copies take no time worth speaking of; for CPUs, what was measured between processes of
# one machine. NCCL has no halving and doubling: it has rings, and trees between nodes with chains inside of them, which
# take the steps and the bytes of the hierarchical.
COPYING = 4.4e9
TRANSPORTS = {
    "nccl": Transport("NCCL", ("ring", "hierarchical"), False, GPU_CYCLE / 1000, Link(10e-6, 12e9)),
    "mpi": Transport("MPI", ("ring", "halving/doubling"), True, CPU_CYCLES[0] / 1000, Link(10e-6, 2e9), COPYING),
    "gloo": Transport("Gloo", ("ring",), True, CPU_CYCLES[0] / 1000, Link(50e-6, 1e9), COPYING),
}
