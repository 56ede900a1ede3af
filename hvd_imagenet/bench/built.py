"""What Horovod was built with for a framework, told by a process of its own, since only one framework fits into one."""

from __future__ import annotations

import json
import subprocess
import sys

from hvd_imagenet.backend import import_part
from hvd_imagenet.errors import RunError, SettingsError


def built(framework: str) -> dict[str, bool]:
    """Whether it has Gloo, MPI and NCCL.

    Raises:
        SettingsError: framework or Horovod cannot be loaded.
    """
    done = subprocess.run([sys.executable, "-m", __name__, framework], capture_output=True, text=True)
    *_, last = (done.stdout or done.stderr).splitlines() or ["it said nothing"]
    if done.returncode:
        raise SettingsError(last)
    return json.loads(last)


def main(framework: str) -> None:
    try:
        print(json.dumps(import_part(framework, "probe").built()))
    except RunError as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
