"""What hosts say of themselves, asked over ssh; or of this one, at once."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.hosts.addresses import address_of, has_free_port, interfaces, is_here
from hvd_imagenet.hosts.listed import Host
from hvd_imagenet.version import version

CONNECT_SECONDS, ANSWER_SECONDS = 5, 30
AT_ONCE = 64  # hosts that are asked at a time
INSTALL = "install the same on all hosts, or into a folder that all see: bash launch/install.sh"


class Report(NamedTuple):
    """What a host says of itself.

    Attributes:
        name: its own; address: what that resolves to there, None: nothing.
        version: of this package.
        interfaces: IPv4 addresses by the names of network interfaces.
        free_port: whether there is one to listen at.
        ahead: by how many seconds its clock is ahead of that of the machine which has asked, at least.
    """

    name: str
    address: str | None
    version: str
    interfaces: dict[str, str]
    free_port: bool
    ahead: float = 0.0


def ssh_of(environment: Mapping[str, str]) -> list[str]:
    """The command that runs another on a host, and never asks anybody anything."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]
    command += ["-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    for option, name in (("-p", "SSH_PORT"), ("-i", "SSH_KEY")):
        if environment.get(name):
            command += [option, environment[name]]
    return command


def reports_of(hosts: list[Host], ssh: list[str]) -> dict[str, Report]:
    """What each host says of itself, by its name in the list.

    Raises:
        SettingsError: a host that does not answer, or has not got the package.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        names = [host.name for host in hosts]
        return dict(zip(names, pool.map(lambda name: _report_of(name, ssh), names), strict=True))


def _report_of(name: str, ssh: list[str]) -> Report:
    if is_here(name):
        return report_here()
    asked = time.time()
    paths = [f"PYTHONPATH={os.environ['PYTHONPATH']}"] if "PYTHONPATH" in os.environ else []
    there = shlex.join(["env", *paths, sys.executable, "-P", "-m", "hvd_imagenet.hosts", "here"])
    try:
        done = subprocess.run(
            [*ssh, name, there], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SettingsError(f"{name}: has not answered in {ANSWER_SECONDS} s; look at it, or leave it out") from None
    if done.returncode == 255:  # of ssh itself
        raise SettingsError(f"{name}: {_of_ssh(name, done.stderr)}")
    with suppress(ValueError, TypeError, LookupError):
        answer = json.loads(done.stdout.splitlines()[-1])
        ahead = _ahead(answer.pop("clock"), asked, time.time())
        return Report(**answer)._replace(ahead=ahead)
    reason = (done.stderr.strip().splitlines() or ["it answers nothing"])[-1]
    raise SettingsError(f"{name}: hvd_imagenet cannot be started there with {sys.executable} ({reason}); {INSTALL}")


def _ahead(clock: float, asked: float, answered: float) -> float:
    """By how many seconds a clock, read at some moment between these two of ours, is ahead of ours at least."""
    return clock - min(max(clock, asked), answered)


def _of_ssh(name: str, said: str) -> str:
    """What ssh's failure is, and what helps."""
    last = (said.strip().splitlines() or ["no reason given"])[-1].strip()
    if "Permission denied" in said:
        return f"lets nobody in without a password ({last}); give it your key: ssh-copy-id {name}"
    if "Could not resolve" in said:
        return "nobody knows that name; correct it, or add it to /etc/hosts"
    if "Host key verification failed" in said:
        return f"is not the machine it was, by its key; if that is right: ssh-keygen -R {name}"
    return f"cannot be reached by ssh ({last}); is it up, and the network? Otherwise leave it out"


def report_here() -> Report:
    """What this host says of itself."""
    name = socket.gethostname()
    return Report(name, address_of(name), version(), interfaces(), has_free_port())
