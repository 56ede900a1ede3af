"""The GPUs that a worker sees, as CUDA's driver tells them, and which of them it takes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning
from hvd_imagenet.doctor.launch import ALONE
from hvd_imagenet.gpu import identify, visible

CHECK = "GPU"
REMEDY = (
    "look at nvidia-smi and dmesg; error 802 wants nvidia-fabricmanager; others, a restart of the driver or the host"
)
NVIDIA = Path("/proc/driver/nvidia/gpus")  # all of the host, whatever this process may see


def look(launch: dict) -> Found:
    """What is visible, and which of them is this worker's, chosen as training chooses."""
    try:
        seen = [identify(number).name for number in range(visible())]
    except RuntimeError as error:
        return Found([failure(CHECK, str(error), REMEDY)])
    mine = seen[launch["local_rank"] % len(seen)] if seen else None
    findings = [ok(CHECK, f"{len(seen)} visible to each worker, which takes one")] if seen else [_none()]
    if launch["kind"] != ALONE and len(seen) > max(1, launch["local_size"]):
        text = f"{len(seen)} visible for {launch['local_size']} worker(s) of the host"
        findings.append(warning(CHECK, text, "start one worker per GPU, or the others stay idle"))
    return Found(findings, {"gpu": mine, "gpus": seen})


def _none() -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if NVIDIA.is_dir() and any(NVIDIA.iterdir()):
        if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
            return ok(CHECK, f"hidden by CUDA_VISIBLE_DEVICES={hidden}: training runs on the CPU")
        remedy = "in a container: docker run --gpus all, apptainer exec --nv; under Slurm: ask for --gpus-per-task=1"
        return warning(CHECK, "the host has some, and this process sees none: training would run on the CPU", remedy)
    driver = " (nvidia-smi is there, the driver is not)" if shutil.which("nvidia-smi") else ""
    return ok(CHECK, f"none{driver}: training runs on the CPU")
