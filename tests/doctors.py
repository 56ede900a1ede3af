"""Running the doctor as its users do, and reading its report."""

import json
import subprocess
import sys

from jobs import outside

from hvd_imagenet.doctor.launch import ALONE, Launch

DOCTOR = [sys.executable, "-m", "hvd_imagenet.cli", "doctor", "--json"]
alone = Launch("no launcher", ALONE, 0, 1, 0, 1)


def may_mount():
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def examined(command, seconds, folder=None, **environment):
    """The report that a command prints, and how it ended."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**outside(), "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    line = next((line for line in done.stdout.splitlines() if '{"launcher"' in line), None)
    assert line, f"{done.stdout}\n{done.stderr}"
    return json.loads(line[line.index("{") :]), done


def lines(report, level, check=None):
    return [
        found["text"] for found in report["findings"] if found["level"] == level and check in (None, found["check"])
    ]
