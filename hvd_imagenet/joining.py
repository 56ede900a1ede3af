"""How a worker joins the others: Horovod's settings and its beginning, and tasks of Slurm that would each be alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from hvd_imagenet import cycles
from hvd_imagenet.config import AllreduceSettings
from hvd_imagenet.errors import LostContactError, SettingsError

PATIENCE = "HOROVOD_GLOO_TIMEOUT_SECONDS"
GIVES_WAY = "OMPI_MCA_mpi_yield_when_idle"  # Open MPI's; whether who waits lets others have the core
NO_STALL = 86400  # seconds: where no stall is to end a job, Gloo's patience

# Launchers of their own inside of a step, and a shell in it (srun --pty): what they start is not what srun started.
OTHERS = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_PTY_PORT")
# How the names of variables begin by which Slurm's MPI plugins, or a site's, bring tasks together.
TOGETHER = ("PMI", "PALS_", "I_MPI_PMI_LIBRARY")


@contextmanager
def horovod_set(
    allreduce: AllreduceSettings, on_gpu: bool, stall_seconds: float | None, step_seconds: float | None
) -> Iterator[None]:
    """While Horovod starts, the environment that it reads: our settings, and where these leave it open, the user's.

    What we have put there is gone afterwards, or it would count as the user's for a program that is begun from here,
    which may be one of other steps.

    Gradients come in buckets, of which it is not to make larger ones, by copying them.

    Gloo gives up after 30 seconds, and cannot say on whom: later than the watchdog, which can. MPI waits without a
    pause, and takes the core from the training that the others wait for; it is to give way.

    Args:
        stall_seconds: see `hvd_imagenet.config.FaultSettings`.
        step_seconds: of a step, about; None: not known.

    Raises:
        SettingsError: the environment has a cycle that is none.
    """
    told = {
        "HOROVOD_FUSION_THRESHOLD": os.environ.get("HOROVOD_FUSION_THRESHOLD", "0"),
        PATIENCE: os.environ.get(PATIENCE, str(math.ceil(stall_seconds or NO_STALL) + 30)),
        GIVES_WAY: os.environ.get(GIVES_WAY, "1"),
    }
    if allreduce.cycle_ms is not None or not on_gpu:
        told[cycles.VARIABLE] = f"{cycles.cycle_ms(allreduce, on_gpu, step_seconds):g}"
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def meet_workers(hvd: ModuleType) -> None:
    """Begin Horovod.

    Args:
        hvd: its part for a framework.

    Raises:
        SettingsError: Slurm has started several tasks, and this one finds itself alone.
        LostContactError: a worker has not come.
    """
    require_company(None)
    try:
        hvd.init()
    except ValueError as error:
        raise LostContactError(f"the workers have not met, since one is gone ({error})") from None
    require_company(hvd.size())


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
