"""The GPUs that a worker sees, by their unique names, as CUDA's driver tells them: no framework is needed."""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from pathlib import Path

from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning
from hvd_imagenet.doctor.launch import ALONE

CHECK = "GPU"
NO_DEVICE = 100  # cuda.h: CUDA_ERROR_NO_DEVICE
NVIDIA = Path("/proc/driver/nvidia/gpus")  # all of the host, whatever this process may see


def look(launch: dict) -> Found:
    """What is visible, and which of them is this worker's, chosen as training chooses."""
    try:
        seen = visible()
    except RuntimeError as error:
        return Found(
            [failure(CHECK, str(error), "look at nvidia-smi and dmesg; reload the driver, or restart the host")]
        )
    mine = seen[launch["local_rank"] % len(seen)] if seen else None
    findings = [ok(CHECK, f"{len(seen)} visible to each worker, which takes one")] if seen else [_none()]
    if launch["kind"] != ALONE and len(seen) > max(1, launch["local_size"]):
        text = f"{len(seen)} visible for {launch['local_size']} worker(s) of the host"
        findings.append(warning(CHECK, text, "start one worker per GPU, or the others stay idle"))
    return Found(findings, {"gpu": mine, "gpus": seen})


def visible() -> list[str]:
    """Unique names of the GPUs that this process sees; none where there is no driver, either.

    Raises:
        RuntimeError: there is a driver, and it fails.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    status, count = driver.cuInit(0), ctypes.c_int()
    if status == NO_DEVICE:
        return []
    _require(status or driver.cuDeviceGetCount(ctypes.byref(count)))
    names = []
    for number in range(count.value):
        device, name = ctypes.c_int(), (ctypes.c_byte * 16)()
        status = driver.cuDeviceGet(ctypes.byref(device), number)
        _require(status or driver.cuDeviceGetUuid_v2(name, device))
        names.append(str(uuid.UUID(bytes=bytes(name))))
    return names


def _require(status: int) -> None:
    if status:
        raise RuntimeError(f"CUDA's driver fails with error {status}")


def _none() -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if NVIDIA.is_dir() and any(NVIDIA.iterdir()):
        if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
            return ok(CHECK, f"hidden by CUDA_VISIBLE_DEVICES={hidden}: training runs on the CPU")
        remedy = "in a container: docker run --gpus all, apptainer exec --nv; under Slurm: ask for --gpus-per-task=1"
        return warning(CHECK, "the host has some, and this process sees none: training would run on the CPU", remedy)
    driver = " (nvidia-smi is there, the driver is not)" if shutil.which("nvidia-smi") else ""
    return ok(CHECK, f"none{driver}: training runs on the CPU")
