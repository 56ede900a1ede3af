"""This machine in the network: its interfaces with their addresses, and what names lead to from here."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from contextlib import suppress

SIOCGIFCONF = 0x8912  # Linux: the IPv4 addresses of all interfaces
ENTRY, ENTRIES = 40, 1024  # bytes of one: a name in the first 16, an address in 4 from the 20th


def own_addresses() -> list[tuple[str, str]]:
    """The IPv4 addresses of this machine, each with the name of its network interface, which may have several."""
    memory = array.array("B", bytes(ENTRY * ENTRIES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, SIOCGIFCONF, struct.pack("iP", len(memory), memory.buffer_info()[0]))
    used = struct.unpack("iP", answer)[0]
    entries = [memory[start : start + ENTRY].tobytes() for start in range(0, used, ENTRY)]
    return [(entry[:16].partition(b"\0")[0].decode(), socket.inet_ntoa(entry[20:24])) for entry in entries]


def interfaces() -> dict[str, str]:
    """The first IPv4 address of each network interface, by its name; those that have none are left out."""
    found: dict[str, str] = {}
    for name, address in own_addresses():
        found.setdefault(name, address)
    return found


def address_of(name: str) -> str | None:
    """What a host's name leads to from here; None: nothing."""
    with suppress(OSError):
        return socket.gethostbyname(name)
    return None


def is_here(name: str) -> bool:
    """Whether a name leads to this machine."""
    address = address_of(name)
    return address is not None and (address.startswith("127.") or any(address == own for _, own in own_addresses()))


def address_towards(name: str) -> str | None:
    """This machine's own address on the way to a host; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trying:
        trying.connect((address_of(name) or "", 9))
        return trying.getsockname()[0]
    return None


def has_free_port() -> bool:
    """Whether there is a port to listen at."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trying:
        trying.bind(("", 0))
        return True
    return False
