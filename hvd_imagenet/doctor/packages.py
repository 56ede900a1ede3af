"""Versions of all that a run is made of, and whether Horovod was built for exactly these frameworks."""

from __future__ import annotations

import json
import platform
from importlib.util import find_spec
from pathlib import Path

from hvd_imagenet.backend import PACKAGES, remedy
from hvd_imagenet.bench.machine import versions
from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning
from hvd_imagenet.version import version

CHECK = "versions"
DALI, TENSORFLOW = ("nvidia-dali-cuda130", "nvidia-dali-cuda120"), ("tensorflow", "tensorflow-cpu")
OTHERS = [
    "horovod",
    "torch",
    *TENSORFLOW,
    "keras",
    *DALI,
    "numpy",
    "pillow",
    "mpi4py",
    "nvidia-nccl-cu12",
    "nvidia-nccl-cu13",
]
DRIVER = Path("/sys/module/nvidia/version")  # the host's, inside a container too
BUILT_FOR = {"torch": ("pytorch", ("torch",)), "keras": ("tensorflow", TENSORFLOW)}  # its name at Horovod, and at pip


def look(launch: dict) -> Found:
    """Versions, as facts too; the framework that the job is for must be there, the other one need not."""
    found = {"python": platform.python_version(), "hvd-imagenet": version(), **versions(OTHERS)}
    kernel, driver = platform.release(), _driver()
    below = [f"Linux {kernel}", f"GPU driver {driver}"][: 2 if driver else 1]
    findings = [ok(CHECK, ", ".join([*(f"{name} {number}" for name, number in found.items()), *below]))]
    if not any(name in found for name in DALI):
        findings.append(failure(CHECK, "DALI is not installed", "run: bash launch/install.sh"))
    built = _horovods_notes()
    if built is None:
        findings.append(failure(CHECK, "Horovod is not installed", remedy(launch["framework"])))
    for framework, (name, distributions) in BUILT_FOR.items():
        installed = next((found[other] for other in distributions if other in found), None)
        findings += _fit(
            framework, launch["framework"] == framework, installed, built and built.get(name), built is not None
        )
    return Found(findings, {"versions": found, "kernel": kernel, "drivers": {"GPU driver": driver or "none"}})


def _fit(framework: str, asked: bool, installed: str | None, built: str | None, horovod: bool) -> list[Finding]:
    """What is to be said of one framework.

    Args:
        asked: the job is for it; installed: its version; built: the one that Horovod was built for.
    """
    worse = failure if asked else warning
    package = PACKAGES[framework]
    if installed is None:
        return [failure(CHECK, f"{package} is not installed", remedy(framework))] if asked else []
    if not horovod:
        return []
    if built is None:
        return [worse(CHECK, f"Horovod was built without {package}", remedy(framework))]
    if built != installed:
        text = f"Horovod was built for {package} {built}, and {installed} is installed"
        return [worse(CHECK, text, remedy(framework))]
    return [ok(CHECK, f"Horovod was built for this {package}, {built}")]


def _horovods_notes() -> dict | None:
    """The versions that Horovod was built for, without loading it; None: it is not there."""
    spec = find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return None
    notes = Path(next(iter(spec.submodule_search_locations))) / "metadata.json"
    return json.loads(notes.read_text()) if notes.exists() else {}


def _driver() -> str | None:
    """The version of the GPU's driver, of which the kernel tells without asking the GPU; None: there is none."""
    return DRIVER.read_text().strip() if DRIVER.exists() else None
