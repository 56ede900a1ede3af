"""What all backends share: sums over samples, and what is said where one cannot be loaded."""

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from hvd_imagenet.backend import Batch, InUse


def test_batches_are_held_until_the_device_is_done_with_them():
    in_use, batches = InUse(), [Batch(np.zeros(1), np.zeros(1)) for _ in range(4)]
    alive, waited = [weakref.ref(batch.images) for batch in batches], []

    def wait(number):
        assert alive[number]() is not None
        waited.append(number)

    for number in range(4):
        in_use.hold([batches.pop(0)], lambda number=number: wait(number))
        assert waited == list(range(number - 1))
        assert [ref() is not None for ref in alive[: number + 1]] == [i > number - 2 for i in range(number + 1)]


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
    assert said.endswith("; run: bash launch/install.sh --frameworks torch,keras")  # the other, too: it is there
