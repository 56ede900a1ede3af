"""The design's table of floors, held against the imports in the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hvd_imagenet

ROOT = Path(hvd_imagenet.__file__).parent
FRAMEWORKS = {"torch", "tensorflow", "keras", "horovod"}

# Place (folder or module below hvd_imagenet) -> floor.
FLOORS = {
    "": 0,
    "errors": 1,
    "version": 1,
    "durable": 1,
    "cores": 1,
    "gpu": 1,
    "memory": 1,
    "policy": 1,
    "stream": 1,
    "models": 1,
    "config": 2,
    "settings": 2,
    "arguments": 2,
    "data": 2,
    "backend": 2,
    "totals": 2,
    "forwards": 2,
    "buckets": 1,
    "host": 2,
    "hosts": 2,
    "joining": 2,
    "cycles": 2,
    "torch": 3,
    "keras": 3,
    "checkpoint": 3,
    "elastic": 3,
    "metrics": 3,
    "run_directory": 3,
    "faults": 3,
    "inputs": 4,
    "startup": 4,
    "saver": 4,
    "evaluation": 4,
    "listeners": 4,
    "trainer": 4,
    "cli": 5,
    "data_cli": 5,
    "data_progress": 5,
    "schedule": 5,
    "pictures": 5,
    "export": 5,
    "bench": 5,
    "doctor": 5,
    "report": 5,
    "study": 5,
    "planner": 5,
}
# Rooms of one house that may use each other although they are on one floor.
NEIGHBOURS = {("trainer", "startup"), ("trainer", "saver"), ("trainer", "evaluation"), ("saver", "startup")}
NEIGHBOURS |= {("startup", "inputs"), ("trainer", "inputs"), ("evaluation", "inputs")}
NEIGHBOURS |= {("evaluation", "startup"), ("faults", "run_directory"), ("cli", "schedule"), ("cli", "data_cli")}
NEIGHBOURS |= {("settings", "config"), ("joining", "config"), ("models", "stream"), ("models", "errors")}
NEIGHBOURS |= {("joining", "cycles"), ("cycles", "config")}
NEIGHBOURS |= {("data", "backend"), ("backend", "totals")}
NEIGHBOURS |= {("gpu", "cores"), ("trainer", "listeners"), ("listeners", "startup")}
NEIGHBOURS |= {("elastic", "checkpoint"), ("faults", "elastic")}
NEIGHBOURS |= {("cli", "export"), ("data_cli", "data_progress"), ("cli", "bench")}
NEIGHBOURS |= {("cli", "doctor"), ("doctor", "bench")}
NEIGHBOURS |= {("cli", "report"), ("cli", "study"), ("study", "report")}
NEIGHBOURS |= {("bench", "planner")}
NEIGHBOURS |= {("cli", "planner"), ("planner", "schedule"), ("planner", "pictures"), ("schedule", "pictures")}
# What is compared with, each in its own module, which runs in a process of its own.
ALTERNATIVES = {"bench/loaders/torch_pil": {"torch"}, "bench/loaders/web_dataset": {"torch"}}
ALTERNATIVES |= {"bench/loaders/tf_data": {"tensorflow"}}
# Of a framework and its folder here, both of them.
ALTERNATIVES |= {f"bench/steps/torch_{name}": {"torch"} for name in ("backend", "ddp", "loop", "matrix")}
ALTERNATIVES |= {f"bench/steps/keras_{name}": {"keras", "tensorflow"} for name in ("backend", "loop", "matrix")}
ALTERNATIVES |= {f"bench/reductions/{name}": {"torch", "horovod"} for name in ("emulated_step", "horovod_sum")}
ALTERNATIVES |= {"bench/reductions/torch_sum": {"torch"}}
LAUNCHER = {"elastic": {"horovod"}}  # Horovod's launcher is heard without any framework
# On floor 1, what each place may import from outside.
OUTSIDE = {
    "policy": set(),
    "errors": set(),
    "version": set(),
    "durable": set(),
    "cores": set(),
    "gpu": set(),
    "memory": set(),
    "stream": {"numpy"},
    "models/spec": set(),
    "models/layers": set(),
    "models/residual": set(),
    "models/initial": {"numpy"},
}


def modules():
    return sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.py"))


def imports(module):
    """Every imported module name of a file, wherever the import stands."""
    return imports_of((ROOT / f"{module}.py").read_text())


def imports_of(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if node.module.split(".")[0] == "hvd_imagenet":  # the names may be modules
                paths = [f"{node.module}.{name.name}" for name in node.names]
                yield from (path if is_module(path) else node.module for path in paths)
            else:
                yield node.module


def is_module(name):
    path = ROOT.parent / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def place(module):
    name = module.replace("hvd_imagenet.", "", 1).replace(".", "/") if "." in module else module
    first = name.split("/")[0]
    return "" if first in ("__init__", "hvd_imagenet") else first


def inner(module):
    return [name for name in imports(module) if name.split(".")[0] == "hvd_imagenet"]


def outer(module):
    names = {name.split(".")[0] for name in imports(module)}
    return names - set(sys.stdlib_module_names) - {"hvd_imagenet"}


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module):
    here = place(module)
    assert here in FLOORS, f"{module} has no floor: add it to the table"
    for name in inner(module):
        there = place(name)
        lower = FLOORS[there] < FLOORS[here]
        assert lower or there == here or (here, there) in NEIGHBOURS, f"{module} imports {name}"


@pytest.mark.parametrize("module", modules())
def test_frameworks_are_imported_in_their_own_folder_only(module):
    here = place(module)
    allowed = {"torch": {"torch", "horovod"}, "keras": {"keras", "tensorflow", "horovod"}}.get(here, set())
    assert outer(module) & FRAMEWORKS <= allowed | (ALTERNATIVES | LAUNCHER).get(module, set())
    for name in inner(module):
        own = here == place(name) or place(name) in ALTERNATIVES.get(module, set())
        assert own or place(name) not in ("torch", "keras"), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in modules() if FLOORS[place(name)] == 1])
def test_the_first_floor_needs_little(module):
    allowed = OUTSIDE.get(module, OUTSIDE.get(place(module), set()))
    assert outer(module) <= allowed


@pytest.mark.parametrize(
    "line",
    ["from hvd_imagenet import torch", "import hvd_imagenet.torch.model", "from hvd_imagenet.torch.norm import x"],
)
def test_every_way_to_import_is_seen(line):
    assert [place(name) for name in imports_of(line)] == ["torch"]


def test_importing_the_package_imports_no_framework():
    named = "hvd_imagenet, hvd_imagenet.cli, hvd_imagenet.settings, hvd_imagenet.bench.command, "
    named += "hvd_imagenet.doctor.command, hvd_imagenet.report.command, hvd_imagenet.planner.command, "
    named += "hvd_imagenet.evaluation.command"
    program = f"import sys, {named}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not FRAMEWORKS & set(loaded)


@pytest.mark.parametrize("module", modules())
def test_files_are_short(module):
    assert len((ROOT / f"{module}.py").read_text().splitlines()) <= 300
