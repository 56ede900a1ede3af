"""MPI's two halves, which must be of one version: the mpirun that starts workers, and the library in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning
from hvd_imagenet.doctor.launch import MPI, Launch

CHECK = "MPI"
SECONDS = 10  # for a program to tell its version
# What runtimes of containers leave inside: a variable or a file.
CONTAINERS = {
    "Apptainer": "APPTAINER_CONTAINER",
    "Singularity": "SINGULARITY_CONTAINER",
    "Podman": "/run/.containerenv",
}
CONTAINERS |= {"Docker": "/.dockerenv"}
LAUNCHERS = ("mpirun", "mpiexec", "orterun", "prterun", "orted", "prted")


def look(launch: dict) -> Found:
    """The library's version beside that of mpirun: the one that started this worker if it can be seen, and PATH's."""
    job = Launch(**launch)
    inside = container()
    where = f"in {inside}, " if inside else ""
    library = _library()
    if library is None:
        worse = failure if job.kind == MPI else warning
        return Found(
            [worse(CHECK, f"{where}MPI's library cannot be loaded", "run: bash launch/install.sh, after Open MPI")]
        )
    findings = [_compared(where, library, which, outside, job) for which, outside in _mpiruns(job).items()]
    findings = findings or [ok(CHECK, f"{where}the library is {library}; no mpirun to compare it with")]
    return Found(findings, {"mpi": {"MPI's library": library}})


def container() -> str | None:
    """What kind of container this process is in; None: in none that is known."""
    for name, mark in CONTAINERS.items():
        if mark in os.environ or (mark.startswith("/") and Path(mark).exists()):
            return name
    return None


def _mpiruns(job: Launch) -> dict[str, str]:
    """Versions of the programs that are known, by what they are."""
    found = {}
    if job.kind == MPI:
        with suppress(psutil.Error):
            for parent in psutil.Process().parents():
                if parent.name() in LAUNCHERS:
                    found[f"the {parent.name()} that started this worker"] = _version(
                        f"/proc/{parent.pid}/exe", parent.name()
                    )
                    break
        if not any(found.values()) and "PMIX_VERSION" in os.environ:
            found["the launcher's PMIx (mpirun itself is out of sight)"] = f"PMIx {os.environ['PMIX_VERSION']}"
    path = shutil.which("mpirun")
    if path:
        found[f"mpirun on the PATH, {path},"] = _version(path, "mpirun")
    return {which: version for which, version in found.items() if version}


def _version(path: str, name: str) -> str | None:
    """What a launcher says of itself, such as Open MPI 4.1.4; one that says nothing in time: None."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
    with suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(
            [name, "--version"], executable=path, env=clean, capture_output=True, text=True, timeout=SECONDS
        ).stdout
        return short(said)
    return None


def _library() -> str | None:
    """The version of the library that mpi4py finds, as Horovod's build does; nothing is started by asking for it."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI as library
    except (ImportError, RuntimeError):
        return None
    return short(library.Get_library_version())


def short(said: str) -> str | None:
    """Name and version out of what programs and libraries say of themselves."""
    found = re.search(r"(Open MPI|OpenRTE|PRTE|HYDRA|MPICH|Intel\(R\) MPI)\D*?v?:?\s*(\d+(?:\.\d+)+)", said)
    if not found:
        return None
    name = {"OpenRTE": "Open MPI", "HYDRA": "MPICH"}.get(found[1], found[1])
    return f"{name} {found[2]}"


def _compared(where: str, library: str, which: str, outside: str, job: Launch) -> Finding:
    text = f"{where}the library is {library}, {which} is {outside}"
    if outside.startswith(("PMIx", "PRTE")):  # numbered on their own
        return ok(CHECK, text)
    family, number = outside.rsplit(" ", 1)
    own_family, own_number = library.rsplit(" ", 1)
    if (family, number.split(".")[0]) != (own_family, own_number.split(".")[0]):
        worse = failure if job.kind == MPI else warning
        return worse(CHECK, f"{text}: workers will not find each other", f"use an mpirun of {library}, on all hosts")
    if number != own_number:
        return warning(CHECK, f"{text}: mostly this works", f"use an mpirun of {library}, on all hosts")
    return ok(CHECK, text)
