"""The hosts that a job is to run on: who they are, and what would keep it from beginning; for the scripts in launch/.

    python -m hvd_imagenet.hosts gloo|mpi     the number of workers, the hosts and the network interface, in one line
    python -m hvd_imagenet.hosts here         what this host says of itself, as JSON

The environment names the hosts, see ``launch/horovodrun.sh --help``. Nothing outside of the standard library: a host
where that is not enough is one without the package.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.version import version

CONNECT_SECONDS, ANSWER_SECONDS = 5, 30
AT_ONCE = 64  # hosts that are asked at a time
SKEW_SECONDS = 60  # between two clocks: what compares them elsewhere allows for minutes
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
INSTALL = "install the same on all hosts, or into a folder that all see: bash launch/install.sh"


class Host(NamedTuple):
    """A host by the name it was given, and how many workers it gets."""

    name: str
    workers: int


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


def main(arguments: list[str], environment: Mapping[str, str] = os.environ) -> int:
    """The program; its exit status."""
    if arguments == ["here"]:
        print(json.dumps({**report_here()._asdict(), "clock": time.time()}))
        return 0
    try:
        hosts = hosts_of(environment)
        reports = reports_of(hosts, ssh_of(environment))
        require_fit(reports, over_gloo=arguments == ["gloo"])
        interface = interface_of(hosts, reports, environment.get("NETWORK_INTERFACE"))
    except SettingsError as error:
        print(f"hvd-imagenet: error: {error}", file=sys.stderr)
        return error.exit_code
    for line in skewed(reports):
        print(f"hvd-imagenet: warning: {line}", file=sys.stderr)
    print(sum(host.workers for host in hosts), ",".join(f"{host.name}:{host.workers}" for host in hosts), interface)
    return 0


def hosts_of(environment: Mapping[str, str]) -> list[Host]:
    """The hosts that HOSTS or the file HOSTFILE names, each once.

    Raises:
        SettingsError: neither is there, or both, or what they say is not understood.
    """
    listed, file = environment.get("HOSTS"), environment.get("HOSTFILE")
    if bool(listed) == bool(file):
        raise SettingsError("HOSTS: give the hosts with their workers, HOSTS=node1:8,node2:8, or a file: HOSTFILE=FILE")
    where, entries = "HOSTS", (listed or "").split(",")
    if file:
        where = f"HOSTFILE: {file}"
        try:
            lines = Path(file).read_text().splitlines()
        except OSError as error:
            raise SettingsError(f"{where}; cannot be read ({error.strerror})") from None
        entries = [entry for line in lines if (entry := line.partition("#")[0].strip())]
    hosts = [_parsed(entry.strip(), where) for entry in entries]
    if not hosts:
        raise SettingsError(f"{where}; names no host; give one host:workers to a line")
    _require_each_once(hosts, where)
    return hosts


def _parsed(entry: str, where: str) -> Host:
    found = re.fullmatch(r"(\w[\w.-]*)(?:(?::|\s+slots\s*=\s*)(\d+))?", entry, re.ASCII)
    if not found or not int(found[2] or 1):
        raise SettingsError(f"{where}; {entry!r} is no host with its workers; give host:workers, such as node1:8")
    return Host(found[1], int(found[2] or 1))


def _require_each_once(hosts: list[Host], where: str) -> None:
    seen: dict[str, Host] = {}
    for host in hosts:
        for identity in {host.name, _address(host.name) or host.name}:
            other = seen.setdefault(identity, host)
            if other is not host:
                both = host.name if host.name == other.name else f"{other.name} and {host.name}, one host,"
                together = f"{other.name}:{other.workers + host.workers}"
                raise SettingsError(f"{where}; {both} is named twice; name it once with all its workers: {together}")


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
    if _is_here(name):
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
    return Report(name, _address(name), version(), _interfaces(), _has_free_port())


def require_fit(reports: Mapping[str, Report], over_gloo: bool) -> None:
    """Raise SettingsError unless these hosts can make one job.

    Args:
        over_gloo: which listens where a host's own name leads to.
    """
    here = report_here()
    for name, report in reports.items():
        if report.version != here.version:
            raise SettingsError(f"{name}: has hvd_imagenet {report.version}, {here.name} has {here.version}; {INSTALL}")
        if not report.free_port:
            raise SettingsError(
                f"{name}: has no free port to listen at; end what holds them (ss -tan), or widen "
                "net.ipv4.ip_local_port_range"
            )
        if over_gloo and len(reports) > 1 and (report.address or "127.").startswith("127."):
            leads = f"leads to {report.address}" if report.address else "leads nowhere"
            raise SettingsError(
                f"{name}: its own name {report.name} {leads} there, and no other host can reach that; in its "
                "/etc/hosts, give that name its address in the network, or take launch/mpirun.sh"
            )


def skewed(reports: Mapping[str, Report]) -> list[str]:
    """A line for each host whose clock is too far from this machine's: no job minds, but what it leans on may."""
    return [
        f"{name}: its clock is {abs(report.ahead):,.0f} s {'ahead of' if report.ahead > 0 else 'behind'} the one here; "
        "a job compares no clocks, but S3, TLS, Kerberos and Slurm do: start chrony or ntpd on both"
        for name, report in reports.items()
        if abs(report.ahead) > SKEW_SECONDS
    ]


def interface_of(hosts: list[Host], reports: Mapping[str, Report], wanted: str | None) -> str:
    """The network interface that all hosts and this one have.

    Args:
        wanted: its name, or for MPI a network such as 10.0.0.0/24; None: that by which the hosts are reached from here.

    Raises:
        SettingsError: a host has not got it.
    """
    away = [host.name for host in hosts if not _is_here(host.name)]
    if not away:
        return wanted or "lo"
    given = f"NETWORK_INTERFACE: {wanted}"
    here = report_here()
    if not wanted:
        address = _address_towards(away[0])
        wanted = next((name for name, own in here.interfaces.items() if own == address), "")
        given = f"NETWORK_INTERFACE: {wanted}, by which {away[0]} is reached from here"
    for name, report in {here.name: here, **reports}.items():
        if not _is_among(wanted, report.interfaces):
            has = ", ".join(report.interfaces)
            raise SettingsError(f"{given}; {name} has no such interface, only {has}; name one that all hosts have")
    return wanted


def _is_among(wanted: str, interfaces: Mapping[str, str]) -> bool:
    with suppress(ValueError):
        network = ipaddress.ip_network(wanted)
        return any(ipaddress.ip_address(address) in network for address in interfaces.values())
    return wanted in interfaces


def _interfaces() -> dict[str, str]:
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # one without an address
                answer = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _address(name: str) -> str | None:
    with suppress(OSError):
        return socket.gethostbyname(name)
    return None


def _is_here(name: str) -> bool:
    """Whether a name leads to this machine: only its own addresses can be bound to."""
    address = _address(name)
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trying:
        trying.bind((address or "", 0))
        return address is not None
    return False


def _address_towards(name: str) -> str | None:
    """This machine's own address on the way to a host; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trying:
        trying.connect((_address(name) or "", 9))
        return trying.getsockname()[0]
    return None


def _has_free_port() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trying:
        trying.bind(("", 0))
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
