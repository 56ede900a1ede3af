"""Bandwidth and latency between workers, over plain TCP connections of their own."""

from __future__ import annotations

import socket
import statistics
import struct
import time
from dataclasses import asdict, dataclass
from typing import Any

from hvd_imagenet.doctor.findings import Finding, failure, ok, warning
from hvd_imagenet.doctor.meeting import Meeting, admit
from hvd_imagenet.doctor.names import GLOO_IFACE
from hvd_imagenet.faults.link import Address, connect, listen

CHECK = "network"
WARM_UP_SECONDS = 1.0  # TCP begins slowly, and finds its speed in some tens of round trips
SECONDS, SLICE_SECONDS = 2.0, 0.1  # of what is measured
DRAIN_SECONDS = 3.0
PATIENCE = 20.0  # for one pair
PINGS = 15
PARTNERS = 8  # at most, of each worker that measures
CHUNK = 1 << 18
RATE = struct.Struct("!d")
SLOW = 0.5  # of the median, for a warning


@dataclass(frozen=True)
class Measured:
    """A link in one direction.

    Attributes:
        sender, receiver: ranks.
        mbits: per second, as they arrive; round_trip_ms: median of a byte's there and back. None: no connection.
    """

    sender: int
    receiver: int
    mbits: float | None
    round_trip_ms: float | None


def rounds(count: int) -> list[list[tuple[int, int]]]:
    """Who measures with whom, by place: in a round each has one partner at most; over all rounds, each meets each."""
    places = list(range(count + count % 2))  # with an odd number, one rests
    found = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        found.append([(a, b) for a, b in pairs if max(a, b) < count])
        places = [places[0], places[-1], *places[1:-1]]
    return found


def measure(
    meeting: Meeting, ranks: list[int], interfaces: dict[str, list[str]], interface: str | None
) -> list[Measured]:
    """Measure between these workers, in both directions, each at one thing at a time; all workers call it.

    Args:
        ranks: of those that measure.
        interfaces: this worker's addresses by name; interface: the one to use, if one is named.

    Raises:
        MeetingError: worker 0 is not heard of.
    """
    server, own = listen()
    if interface in interfaces:
        hosts = [host for host in own.hosts if host in interfaces[interface]]
        own = Address(tuple(hosts) or own.hosts, own.port, own.token)
    addresses = meeting.gather(asdict(own), PATIENCE)
    found: list[dict] = []
    for pairs in rounds(len(ranks))[:PARTNERS]:
        for turn in (0, 1):
            mine = [(ranks[pair[turn]], ranks[pair[1 - turn]]) for pair in pairs]
            result = None
            for sender, receiver in mine:
                if meeting.rank == sender:
                    result = asdict(_sent(sender, receiver, addresses[receiver]))
                elif meeting.rank == receiver:
                    receive(server, own.token)
            found += [one for one in meeting.gather(result, 2 * PATIENCE) if one]
    server.close()
    return [Measured(**one) for one in found]


def _sent(sender: int, receiver: int, address: dict[str, Any] | None) -> Measured:
    link = address and connect(Address(tuple(address["hosts"]), address["port"], address["token"]), sender)
    if not link:
        return Measured(sender, receiver, None, None)
    try:
        with link.socket as connection:
            return Measured(sender, receiver, *send(connection))
    except OSError:
        return Measured(sender, receiver, None, None)


def send(connection: socket.socket) -> tuple[float, float]:
    """As the sender: Mbit/s as the other end counts them, and the median round trip in ms.

    Raises:
        OSError: the connection fails.
    """
    connection.setblocking(True)
    connection.settimeout(PATIENCE / 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    trips = []
    for _ in range(PINGS):
        begun = time.perf_counter()
        connection.sendall(b"?")
        _exactly(connection, 1)
        trips.append(1000 * (time.perf_counter() - begun))
    chunk = bytes(CHUNK)
    give_up = time.monotonic() + WARM_UP_SECONDS + SECONDS
    while time.monotonic() < give_up:
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
    return RATE.unpack(_exactly(connection, RATE.size))[0], statistics.median(trips)


def receive(server: socket.socket, token: str) -> None:
    """As the receiver: answer the pings, count what arrives after the warm-up, and tell the sender."""
    arrived = admit(server, token, time.monotonic() + PATIENCE / 2)
    if arrived is None:
        return
    with arrived[1] as connection:
        try:
            connection.settimeout(PATIENCE / 2)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(PINGS):
                connection.sendall(_exactly(connection, 1))
            connection.sendall(RATE.pack(_mbits(connection)))
            give_up = time.monotonic() + DRAIN_SECONDS
            # To the end: a connection that is closed with data unread takes the answer with it.
            while time.monotonic() < give_up and connection.recv(CHUNK):
                pass
        except OSError:
            return


def _mbits(connection: socket.socket) -> float:
    """Mbit/s that arrive after the warm-up: the upper quartile of short slices.

    A host may be busy with something else for a moment, and TCP may have to recover for a second from the losses that
    end its slow start.
    """
    buffer = bytearray(4 * CHUNK)
    _exactly(connection, 1)
    begun = time.perf_counter()
    since, counted, slices = begun + WARM_UP_SECONDS, 0, []
    while received := connection.recv_into(buffer):
        now = time.perf_counter()
        counted += received
        if now < since:  # still warming up
            counted = 0
        elif now - since >= SLICE_SECONDS:
            slices.append(8e-6 * counted / (now - since))
            since, counted = now, 0
        if now - begun >= WARM_UP_SECONDS + SECONDS:
            break
    return statistics.quantiles(slices, n=4)[2] if len(slices) > 1 else sum(slices)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data


def judged(measured: list[Measured], hosts: list[str]) -> list[Finding]:
    """The lines of a measurement.

    Args:
        hosts: of each worker, by rank.
    """

    def name(link: Measured) -> str:
        ends = [
            hosts[rank] if hosts[link.sender] != hosts[link.receiver] else f"worker {rank}"
            for rank in (link.sender, link.receiver)
        ]
        return f"{ends[0]} to {ends[1]}"

    remedy = f"let workers reach each other on all ports; name the interface between them: {GLOO_IFACE}"
    findings = [failure(CHECK, f"{name(link)}: no connection", remedy) for link in measured if not link.mbits]
    there = [link for link in measured if link.mbits]
    if there:
        middle = statistics.median(link.mbits for link in there)
        slowest = min(there, key=lambda link: link.mbits)
        farthest = max(there, key=lambda link: link.round_trip_ms)
        text = (
            f"TCP, {len(there)} link{'s'[: len(there) != 1]}: {middle:,.0f} Mbit/s (median); slowest {name(slowest)}, "
            f"{slowest.mbits:,.0f} Mbit/s; longest round trip {farthest.round_trip_ms:.2f} ms, {name(farthest)}"
        )
        if slowest.mbits < SLOW * middle:
            findings.append(warning(CHECK, text, f"look at the cable, the port and the load of {name(slowest)}"))
        else:
            findings.append(ok(CHECK, text))
    return findings
