"""Room where a host's workers write: runs, the cache of remote data sets, temporary files, shared memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

from hvd_imagenet.data.remote.caching import default_folder
from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning

NEEDED, WANTED = 256 * 2**20, 5 * 2**30  # bytes: a checkpoint of a ResNet-50, and a few of them with all else
FILES_NEEDED = 1000
SHM = Path("/dev/shm")  # where NCCL, and MPI on one host, exchange data
SHM_NEEDED, SHM_WANTED = 32 * 2**20, 256 * 2**20  # bytes for each worker of the host


def look(launch: dict) -> Found:
    """Each of the places."""
    places = {
        "runs": Path("runs").absolute(),
        "cache": default_folder(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    disks = [_room(f"disk: {what}", existing(path)) for what, path in places.items()]
    return Found([*disks, _shared_memory(launch["local_size"])])


def existing(path: Path) -> Path:
    """The path, or where it would be made."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _room(check: str, folder: Path) -> Finding:
    remedy = "free some, or name a folder on another disk (train --run, --data.cache_dir, $TMPDIR)"
    if not os.access(folder, os.W_OK | os.X_OK):
        return failure(check, f"{folder} may not be written to", remedy)
    free = psutil.disk_usage(str(folder)).free
    files = os.statvfs(folder)
    text = f"{folder} has {free / 2**30:,.1f} GiB free"
    if files.f_files and files.f_favail < FILES_NEEDED:
        return failure(check, f"{folder} has room for {files.f_favail} more files", remedy)
    if free < WANTED:
        return (failure if free < NEEDED else warning)(check, text, remedy)
    return ok(check, text)


def _shared_memory(workers: int) -> Finding:
    check, remedy = (
        "shared memory",
        "docker run --shm-size=8g, or --ipc=host; elsewhere: mount -o remount,size=8g /dev/shm",
    )
    if not SHM.is_dir():
        return failure(check, f"{SHM} is not there; NCCL and MPI need it", "mount a tmpfs there")
    size = psutil.disk_usage(str(SHM))
    text = f"{SHM} has {size.free / 2**20:,.0f} MiB free of {size.total / 2**20:,.0f}, for {workers} worker(s)"
    if size.free < workers * SHM_WANTED:
        return (failure if size.free < workers * SHM_NEEDED else warning)(check, text, remedy)
    return ok(check, text)
