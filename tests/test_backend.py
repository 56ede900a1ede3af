"""What all backends share: where workers run, and sums over samples."""

import os
import subprocess
import sys

import pytest

from hvd_imagenet.backend import Place, Totals, cores_per_worker, require_own_gpus
from hvd_imagenet.errors import SettingsError


def places(*masks, host="a"):
    return [Place(host, frozenset(mask), None) for mask in masks]


@pytest.mark.parametrize(
    ("given", "cores"),
    [
        (places(range(8)), 8),
        (places(range(8), range(8)), 4),  # all cores to all
        (places(range(4), range(4, 8)), 4),  # bound by the launcher
        (places(range(8), range(8), range(8)), 2),
        (places([0], [0], [0]), 1),
        (places(range(8)) + places(range(2), host="b"), 8),
    ],
)
def test_cores_are_shared_out_on_each_host(given, cores):
    assert cores_per_worker(given, 0) == cores


def gpus(*names):
    return [Place(name[0], frozenset([0]), name[1:] or None) for name in names]


@pytest.mark.parametrize("given", [gpus("a", "a"), gpus("aX", "aY"), gpus("aX", "bX")], ids=["cpu", "own", "hosts"])
def test_a_gpu_each_or_none(given):
    require_own_gpus(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (gpus("aX", "aY", "aX"), "workers 0 and 2 on a share GPU X; start one worker per GPU"),
        (gpus("aX", "b"), "worker 1 on b has no GPU, others have"),
    ],
)
def test_shared_or_missing_gpus_are_named(given, message):
    with pytest.raises(SettingsError, match=message):
        require_own_gpus(given)


def test_totals():
    totals = Totals(loss_sum=6.0, top1=1, top5=3, count=4)
    assert totals.loss == 1.5
    assert totals.accuracies() == {"top1": 0.25, "top5": 0.75}


MISSING = "import sys; sys.modules['{}'] = None"
OTHER_VERSION = "import {0}; {0}.__version__ = '1.2.3'"


@pytest.mark.parametrize(("framework", "package"), [("torch", "torch"), ("keras", "tensorflow")])
@pytest.mark.parametrize(
    ("situation", "package_of_horovod", "reason"),
    [
        (MISSING, "{}", "import of {} halted"),
        (MISSING, "horovod.{}", "import of horovod.{} halted"),
        (OTHER_VERSION, "{}", "Horovod was built for another version of it: Framework "),
    ],
    ids=["missing", "missing in Horovod", "of another version"],
)
def test_a_framework_that_cannot_be_loaded(framework, package, situation, package_of_horovod, reason):
    situation = situation.format(package_of_horovod.format(package))
    program = f"{situation}\nfrom hvd_imagenet import cli; sys = __import__('sys'); sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "train", "--framework", framework, "--data.path", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"hvd-imagenet: error: framework: {framework} cannot be loaded ({reason.format(package)}")
    assert said.endswith(f"; run: bash launch/install.sh --frameworks {framework}")
