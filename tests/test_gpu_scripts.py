"""The scripts for machines with a GPU: on one without, they say so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("gpu")


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_twenty_steps(framework):
    """With the GPUs that the environment shows, which ``tests/run.sh`` makes none."""
    here = f"no CUDA GPU here: nothing of the {framework} backend was run", f"{framework}: 20 steps on 1 GPU(s), loss "
    assert said("twenty_steps.py", framework).startswith(here)


def test_speed():
    found = said("speed.py")
    assert found == "no CUDA GPU here: nothing was measured\n" or "mixed decoder: " in found


def said(script, *options):
    command = [sys.executable, FOLDER / script, *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr
    return done.stdout
