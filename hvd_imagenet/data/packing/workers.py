"""Where the work on data sets is done: in processes of this machine, or under mpirun in those of all its hosts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from hvd_imagenet.errors import SettingsError

MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")  # how many processes mpirun has started


@contextmanager
def executor(workers: int | None) -> Iterator[Executor | None]:
    """An executor of so many processes; None: of one per core.

    Under mpirun, it is the other processes', and they get None in its place, when all work is done.

    Raises:
        SettingsError: a number of processes is given under mpirun, or mpi4py is missing there.
    """
    started = max((int(os.environ[name]) for name in MPI_VARIABLES if name in os.environ), default=1)
    if started == 1:
        with _processes(workers or len(os.sched_getaffinity(0))) as pool:
            yield pool
        return
    if workers:
        raise SettingsError(f"--workers: {workers}; under mpirun its processes are the workers: leave it out")
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:
        raise SettingsError(f"mpi4py: cannot be used ({error}); run: pip install mpi4py, or without mpirun") from None
    if MPI.COMM_WORLD.size != started:
        raise SettingsError(
            f"mpi4py: sees {MPI.COMM_WORLD.size} of mpirun's {started} processes; is it of another MPI?"
        )
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as pool:
        if pool is None:
            yield None
            return
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    # Spawned: the decoder's threads do not survive a fork.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Leave signals to the parent, and do not outlive it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
