"""Versions of all that a run is made of, and whether Horovod was built for exactly these frameworks."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.util import find_spec
from pathlib import Path

import hvd_imagenet
from hvd_imagenet.backend import PACKAGES, remedy
from hvd_imagenet.bench.machine import versions
from hvd_imagenet.doctor.findings import Finding, Found, failure, ok, warning

CHECK = "versions"
OURS, DALI, TENSORFLOW = (
    "hvd-imagenet",
    ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    ("tensorflow", "tensorflow-cpu"),
)
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
BUILT_FOR = {"torch": ("pytorch", ("torch",)), "keras": ("tensorflow", TENSORFLOW)}  # its name at Horovod, and at pip


def look(launch: dict) -> Found:
    """Versions, as facts too; the framework that the job is for must be there, the other one need not."""
    found = {"python": platform.python_version(), **versions([OURS, *OTHERS])}
    findings = [ok(CHECK, ", ".join(f"{name} {version}" for name, version in found.items()))]
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
    return Found(findings, {"versions": {**found, f"{OURS}'s code": _code()}})


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


def _code() -> str:
    """A short checksum of this package's source: two checkouts may well have one version."""
    root = Path(hvd_imagenet.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]
