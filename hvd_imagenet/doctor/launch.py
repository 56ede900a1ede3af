"""What this process is told of its launch: by which launcher, as which worker of how many, with which options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

ALONE, GLOO, MPI = "alone", "gloo", "mpi"

# Of launchers that bring MPI: the variables that tell rank, workers, rank on the host and workers on the host. Slurm's
# are those of a step's tasks: a batch script itself has the others, too. mpirun may run inside Slurm: it comes first.
MPI_VARIABLES = {
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    "MPI's launcher": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


@dataclass(frozen=True)
class Launch:
    """One worker's place in the job.

    Attributes:
        launcher: what started it, for the report; kind: ALONE, or how its workers meet: GLOO or MPI.
        rank, size: among all workers; local_rank, local_size: among those of its host.
        framework: torch or keras; data: of ``--data``; network: measure it.
    """

    launcher: str
    kind: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    framework: str = "torch"
    data: str | None = None
    network: bool = False

    @property
    def several_hosts(self) -> bool:
        return self.local_size < self.size


def read_launch(environment: Mapping[str, str] = os.environ, **options) -> Launch:
    """The launch, as the environment tells it."""
    if "HOROVOD_GLOO_RENDEZVOUS_ADDR" in environment:
        names = [f"HOROVOD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
        return Launch("horovodrun", GLOO, *(int(environment[name]) for name in names), **options)
    for launcher, names in MPI_VARIABLES.items():
        rank, size, local_rank, local_size = (environment.get(name) for name in names)
        if rank is not None and size is not None:
            per_host = int((local_size or size).partition("(")[0].partition(",")[0])  # Slurm's: 2(x4), or 4,3
            return Launch(launcher, MPI, int(rank), int(size), int(local_rank or 0), per_host, **options)
    return Launch("no launcher", ALONE, 0, 1, 0, 1, **options)
