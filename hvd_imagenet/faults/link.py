"""Connections between workers beside Horovod's own: lines of JSON over TCP."""

from __future__ import annotations

import json
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

CONNECT_SECONDS = 3


@dataclass(frozen=True)
class Address:
    """Where worker 0 can be reached: one of its host's addresses, by who knows the token."""

    hosts: tuple[str, ...]
    port: int
    token: str


class Link:
    """One end of a connection to another worker; never blocks.

    Attributes:
        socket: to be waited for.
        ended: whether the other end is closed.
    """

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self.socket = connection
        self.ended = False
        self._received = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; to a worker that does not read, nothing gets through."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived since the last call."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.ended = not data
        *lines, self._received = (self._received + data).split(b"\n")
        messages = []
        for line in lines:
            with suppress(ValueError):
                messages.append(json.loads(line))
        return [message for message in messages if isinstance(message, dict)]

    def close(self) -> None:
        self.socket.close()


def listen() -> tuple[socket.socket, Address]:
    """A socket that other workers can connect to, and where they find it."""
    families = [socket.AF_INET]
    server = None
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 may be there, and switched off
            server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
            families.append(socket.AF_INET6)
    server = server or socket.create_server(("", 0), backlog=1024)
    hosts = [host for found in addresses(*families).values() for host in found]
    reachable = sorted((host for host in hosts if not host.startswith("fe80:")), key=_is_loopback)
    return server, Address(tuple(reachable), server.getsockname()[1], secrets.token_hex(16))


def addresses(*families: socket.AddressFamily) -> dict[str, list[str]]:
    """Addresses, of these families, of the network interfaces that are up, by name; those without one are left out."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return {
        name: found
        for name, entries in psutil.net_if_addrs().items()
        if name in up and (found := [entry.address for entry in entries if entry.family in families])
    }


def connect(address: Address, rank: int) -> Link | None:
    """A link of worker `rank` to the one that listens; None where no address of it answers with the token."""
    for host in address.hosts:
        with suppress(OSError, ValueError):
            connection = socket.create_connection((host, address.port), CONNECT_SECONDS)
            if _knows_token(connection, address.token, rank):
                return Link(connection)
    return None


def _knows_token(connection: socket.socket, token: str, rank: int) -> bool:
    """Whether the other end answers with the token; if not, the connection is closed."""
    with suppress(OSError, ValueError):
        connection.sendall(json.dumps({"token": token, "rank": rank}).encode() + b"\n")
        with connection.makefile("rb") as answer:
            if json.loads(answer.readline()) == {"token": token}:
                return True
    connection.close()
    return False


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"
