"""The hosts that the environment names: each once, with its number of workers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.hosts.addresses import address_of


class Host(NamedTuple):
    """A host by the name it was given, and how many workers it gets."""

    name: str
    workers: int

    def __str__(self) -> str:
        return f"{self.name}:{self.workers}"


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
        for identity in {host.name, address_of(host.name) or host.name}:
            other = seen.setdefault(identity, host)
            if other is not host:
                both = host.name if host.name == other.name else f"{other.name} and {host.name}, one host,"
                together = f"{other.name}:{other.workers + host.workers}"
                raise SettingsError(f"{where}; {both} is named twice; name it once with all its workers: {together}")
