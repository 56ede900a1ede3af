"""Where the work on data sets is done: in processes of this machine, or under mpirun in those of all its hosts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

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
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, context, _end_with_parent, (watched,))
    try:
        yield pool
    except BaseException:
        held.close()  # nobody waits for what the workers are at: it is done again the next time
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        watched.close()
        held.close()


def _end_with_parent(watched: Connection) -> None:
    """Leave signals to the parent, and end at once when it closes its end of the pipe, be it by its own end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
