"""Which hosts of an elastic job answer: for its launcher, which asks every second."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.hosts.addresses import is_here
from hvd_imagenet.hosts.listed import Host
from hvd_imagenet.hosts.reports import AT_ONCE

SSH_PORT = 22
CONNECT_SECONDS = 2
# Between two connections to a host that answers: its ssh server may write a line on each, or take them for an attack.
PAUSE_SECONDS = 10


def answering(hosts: list[Host], environment: Mapping[str, str], now: float | None = None) -> list[Host]:
    """Those of the hosts that answer on ssh's port, or have done so in the last seconds; this one always does.

    Args:
        environment: SSH_PORT; STALL_SECONDS, for which a host that does not answer is kept, as by the workers; and
            HEARD, a file that keeps between calls when each has answered.
        now: seconds of the clock that all processes of this machine share.

    Raises:
        SettingsError: one of these is no number.
    """
    port, patience = (_number(environment, *of) for of in (("SSH_PORT", SSH_PORT), ("STALL_SECONDS", 60)))
    now = time.monotonic() if now is None else now
    file = Path(environment["HEARD"])
    heard: dict[str, float] = json.loads(file.read_text() or "{}")
    pause = min(PAUSE_SECONDS, patience / 4)
    never = now - patience
    due = [host.name for host in hosts if now - heard.get(host.name, never) >= pause]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip(due, pool.map(lambda name: _answers(name, port), due), strict=True))
    heard |= {name: now for name, answered in answers.items() if answered}
    file.write_text(json.dumps(heard))
    return [host for host in hosts if now - heard.get(host.name, never) < patience]


def _number(environment: Mapping[str, str], name: str, otherwise: int) -> int:
    given = environment.get(name) or str(otherwise)
    if not given.isdecimal() or not int(given):
        raise SettingsError(f"{name}: {given}; give a whole number above 0")
    return int(given)


def _answers(name: str, port: int) -> bool:
    with suppress(OSError):
        if is_here(name):
            return True
        socket.create_connection((name, port), CONNECT_SECONDS).close()
        return True
    return False
