"""How workers are started on this machine: each for itself, or as a job over one of Horovod's transports."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from hvd_imagenet import gpu
from hvd_imagenet.bench import options
from hvd_imagenet.bench.built import built
from hvd_imagenet.bench.contestant import Command, Crew, Task
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.host import own_cores, this_place
from hvd_imagenet.joining import GIVES_WAY

# By its name for --transport: how Horovod names it, and the launcher.
TRANSPORTS = {"gloo": ("Gloo", "horovodrun"), "mpi": ("MPI", "mpirun")}
# The launchers tell a worker its rank by one of these.
RANKS = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
START_SECONDS = "120"


def is_worker() -> bool:
    """Whether a launcher has started this process."""
    return any(name in os.environ for name in RANKS)


def require_no_worker(command: str) -> None:
    """Raise SettingsError if a launcher has started this process."""
    if is_worker():
        raise SettingsError(f"{command}: starts its workers itself; start it alone, without horovodrun or mpirun")


def transports(asked: str | None, framework: str) -> list[str]:
    """Those asked for by --transport, or those that can be used here.

    Raises:
        SettingsError: one is unknown, or cannot be used; or none can be.
    """
    names = options.listed("transport", asked, TRANSPORTS)
    has = built(framework)
    lacking = {name: reason for name in TRANSPORTS if (reason := _lack(name, has))}
    for name in names or []:
        if name in lacking:
            raise SettingsError(f"--transport: {name}; {lacking[name]}")
    usable = [name for name in TRANSPORTS if name not in lacking] if names is None else names
    if not usable:
        raise SettingsError(f"--transport: none can be used here: {'; '.join(lacking.values())}")
    return usable


def _lack(transport: str, has: dict[str, bool]) -> str | None:
    name, launcher = TRANSPORTS[transport]
    if not has[name]:
        return f"Horovod was built without {name}; run: bash launch/install.sh"
    if _path_of(launcher) is None:
        return f"there is no {launcher} on the PATH; run: bash launch/install.sh"
    return None


def has_mpirun() -> bool:
    return _path_of("mpirun") is not None


def _path_of(launcher: str) -> str | None:
    """Where a launcher is: in this environment, activated or not, or else on the PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(launcher, path=places)


def most_workers() -> tuple[int, str]:
    """How many workers fit on this machine, and by what that is counted."""
    gpus = gpu.visible()
    return (gpus, "GPU") if gpus else (len(os.sched_getaffinity(0)), "core")


def cores_of(workers: int) -> list[list[int]]:
    """The cores of each of so many workers, as a job's share them out."""
    places = [this_place(None)] * workers
    return [sorted(own_cores(places, rank)) for rank in range(workers)]


def apart(task: Task, workers: int, of: int | None = None) -> Crew:
    """Workers that know nothing of each other, each on the cores and the GPU that it would have in a job.

    Args:
        of: the size of that job, where not all of it is started.
    """
    shares = cores_of(of or workers)[:workers]
    commands = [Command(replace(task, cores=cores), (), _own_gpu(rank)) for rank, cores in enumerate(shares)]
    return Crew(commands, speakers=workers)


def together(tasks: list[Task]) -> Crew:
    """Workers that find each other by what their tasks say, of whom the first one answers."""
    shares = cores_of(len(tasks))
    environment = {"GLOO_SOCKET_IFNAME": "lo"}
    return Crew([Command(replace(task, cores=own), (), environment) for task, own in zip(tasks, shares, strict=True)])


def job(transport: str, task: Task, workers: int) -> Crew:
    """A job, by the launcher and with the settings that ``launch/horovodrun.sh`` and ``launch/mpirun.sh`` have."""
    launcher = _path_of(TRANSPORTS[transport][1])
    places = ["-np", str(workers), "-H", f"localhost:{workers}"]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if transport == "gloo":
        places += ["--gloo", "--network-interface", "lo", "--start-timeout", START_SECONDS]
        return Crew([Command(task, [launcher, "--disable-cache", *places], environment)])
    places += ["--bind-to", "none", "--map-by", "slot"]
    environment |= {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"}
    environment[GIVES_WAY] = os.environ.get(GIVES_WAY, "1")  # mpi4py, too
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return Crew([Command(task, [launcher, *places], environment)])


def _own_gpu(rank: int) -> dict[str, str]:
    if gpu.visible() == 0:
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[rank] if seen else str(rank)}
