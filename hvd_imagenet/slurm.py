"""What Slurm tells a task about its step, held against what Horovod makes of it."""

from __future__ import annotations

import os

from hvd_imagenet.errors import SettingsError

# Launchers of their own inside of a step, and a shell in it (srun --pty): what they start is not what srun started.
OTHERS = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_PTY_PORT")
# How the names of variables begin by which Slurm's MPI plugins, or a site's, bring tasks together.
TOGETHER = ("PMI", "PALS_", "I_MPI_PMI_LIBRARY")


def require_company(size: int | None) -> None:
    """Check that the tasks of a Slurm step are to be, or are, the workers of one job, not each alone in one of its own.

    Args:
        size: Horovod's number of workers; None: it has not started, which Open MPI would answer by a page of text.

    Raises:
        SettingsError: this is one of several tasks, and knows nothing of the others.
    """
    if "SLURM_STEP_ID" not in os.environ or any(name in os.environ for name in OTHERS):
        return  # an allocation may have as many tasks as it likes: only srun starts them
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    alone = size == 1 if size else not any(name.startswith(TOGETHER) for name in os.environ)
    if tasks > 1 and alone:
        error = SettingsError(
            f"srun: has started {tasks} tasks, each of which finds itself alone; give srun --mpi=pmix, or start the "
            "workers by mpirun in the allocation (launch/slurm/train.sbatch does)"
        )
        error.settled = True  # nobody waits for anybody, and one task can say it for all
        raise error
