"""Checks of a worker's own host: each in a process of its own, with a limit of time, so that none ends the others."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hvd_imagenet.doctor.child import Child, ChildError
from hvd_imagenet.doctor.findings import Finding, Found, failure, of_error
from hvd_imagenet.doctor.launch import Launch
from hvd_imagenet.errors import RunError

AT_ONCE = 4


class Check(NamedTuple):
    """A check.

    Attributes:
        name: in the report; module: the one with its function ``look``; seconds: that it may take.
        everywhere: each worker makes it; otherwise, one of each host.
    """

    name: str
    module: str
    seconds: float
    everywhere: bool = True


# Generous: all workers of all hosts load Python from one file server, and eight GPUs may take half a minute to wake up.
CHECKS = (
    Check("versions", "packages", 60),
    Check("host name", "names", 60, everywhere=False),
    Check("MPI", "mpi", 60, everywhere=False),
    Check("limits", "limits", 60),
    Check("disk", "space", 60, everywhere=False),
    Check("GPU", "gpus", 90),
    Check("decode", "decode", 120),
)
DATA = Check("data", "data", 300)  # a plain folder is indexed


def look(checks: Sequence[Check], launch: Launch) -> Found:
    """What these checks find on this worker, in their order."""
    mine = [check for check in checks if check.everywhere or launch.local_rank == 0]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = Found()
        for part in pool.map(lambda check: look_once(check, launch), mine):
            found += part
        return found


def longest(checks: Sequence[Check]) -> float:
    """Seconds that `look` takes at most: the last check begins when the others leave room for it."""
    return sum(check.seconds for check in checks) / AT_ONCE + max(check.seconds for check in checks)


def look_once(check: Check, launch: Launch, function: str = "look") -> Found:
    """What one check finds, or that it does not end well."""
    try:
        with Child(check.module) as child:
            answer = child.ask(function, check.seconds, launch=launch)
    except RunError as error:
        return Found([of_error(check.name, str(error))])
    except ChildError as error:
        return Found([unfinished(check.name, error)])
    return Found([Finding(**finding) for finding in answer["findings"]], answer["facts"])


def unfinished(name: str, error: ChildError) -> Finding:
    """The line for a check that hangs or crashes."""
    return failure(
        name, f"could not be checked: {error}", "look after what it names; if it is no fault here, report it"
    )
