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
from hvd_imagenet.doctor.names import MPI_IFACE, NCCL_IFACE, by_address
from hvd_imagenet.faults.link import CONNECT_SECONDS, Address, connect, listen

CHECK = "network"
WARM_UP_SECONDS = 1.0  # TCP begins slowly, and finds its speed in some tens of round trips
SECONDS, SLICE_SECONDS = 2.0, 0.1  # of what is measured
DRAIN_SECONDS = 3.0
PATIENCE = 20.0  # for one pair
PINGS = 15
PARTNERS = 8  # at most, of each worker that measures
ADDRESSES = 4  # at most, of a host, that are tried: each that leads nowhere takes CONNECT_SECONDS
CHUNK = 1 << 18
RATE = struct.Struct("!d")
SLOW = 0.5  # of the median, for a warning


@dataclass(frozen=True)
class Measured:
    """A link in one direction.

    Attributes:
        sender, receiver: ranks.
        mbits: per second, as they arrive; round_trip_ms: median of a byte's there and back. None: no connection.
        address: of the receiver, or all of its that were tried in vain; interface: the one that has it.
    """

    sender: int
    receiver: int
    mbits: float | None
    round_trip_ms: float | None
    address: str = ""
    interface: str = ""


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


def measure(meeting: Meeting, ranks: list[int], interfaces: dict[str, list[str]], wanted: list[str]) -> list[Measured]:
    """Measure between these workers, in both directions, each at one thing at a time; all workers call it.

    Args:
        ranks: of those that measure.
        interfaces: this host's addresses by name; wanted: those to measure at; none: where the workers have met.

    Raises:
        MeetingError: worker 0 is not heard of.
    """
    server, own = listen()
    own = Address(likeliest(own.hosts, wanted, meeting.own_address()), own.port, own.token)
    receivers = meeting.gather({"address": asdict(own), "interfaces": by_address(interfaces)}, PATIENCE)
    found: list[dict] = []
    for pairs in rounds(len(ranks))[:PARTNERS]:
        for turn in (0, 1):
            mine = [(ranks[pair[turn]], ranks[pair[1 - turn]]) for pair in pairs]
            result = None
            for sender, receiver in mine:
                if meeting.rank == sender:
                    result = asdict(_sent(sender, receiver, receivers[receiver]))
                elif meeting.rank == receiver:
                    receive(server, own, PATIENCE / 2)
            found += [one for one in meeting.gather(result, 2 * PATIENCE) if one]
    server.close()
    return [Measured(**one) for one in found]


def likeliest(hosts: tuple[str, ...], wanted: list[str], met: str | None) -> tuple[str, ...]:
    """Which of a host's addresses others are to try, in what order: those wanted, or first the one they have met at."""
    asked = tuple(host for host in hosts if host in wanted)
    return (asked or tuple(sorted(hosts, key=lambda host: host != met)))[:ADDRESSES]


def _sent(sender: int, receiver: int, there: dict[str, Any] | None) -> Measured:
    if there is None:
        return Measured(sender, receiver, None, None)
    address = Address(**there["address"])
    link = connect(address, sender)
    if not link:
        return Measured(sender, receiver, None, None, ", ".join(address.hosts))
    host = link.socket.getpeername()[0]
    try:
        with link.socket as connection:
            return Measured(sender, receiver, *send(connection), host, there["interfaces"].get(host, ""))
    except OSError:
        return Measured(sender, receiver, None, None, host)


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


def receive(server: socket.socket, own: Address, seconds: float) -> None:
    """As the receiver: answer the pings, count what arrives after the warm-up, and tell the sender.

    Args:
        seconds: that the sender may take to come, beside the time for addresses that do not lead here.
    """
    arrived, give_up = None, time.monotonic() + seconds + CONNECT_SECONDS * len(own.hosts)
    while arrived is None:
        if time.monotonic() > give_up:
            return
        arrived = admit(server, own.token, give_up)
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

    remedy = "let workers reach each other on all ports; name the interface between them: --network-interface for "
    remedy += f"horovodrun, {MPI_IFACE} for mpirun, {NCCL_IFACE} on GPUs"
    findings = [
        failure(CHECK, f"{name(link)}: no connection{' to ' * bool(link.address)}{link.address}", remedy)
        for link in measured
        if not link.mbits
    ]
    there = [link for link in measured if link.mbits]
    if there:
        middle = statistics.median(link.mbits for link in there)
        slowest = min(there, key=lambda link: link.mbits)
        farthest = max(there, key=lambda link: link.round_trip_ms)
        links = f"{len(there)} link{'s'[: len(there) != 1]}{_way(there, hosts)}"
        where = f"{name(slowest)}{' at ' * bool(slowest.address)}{slowest.address}"
        text = (
            f"TCP, {links}: {middle:,.0f} Mbit/s (median); slowest {where}, {slowest.mbits:,.0f} Mbit/s; "
            f"longest round trip {farthest.round_trip_ms:.2f} ms, {name(farthest)}"
        )
        if slowest.mbits < SLOW * middle:
            findings.append(warning(CHECK, text, f"look at the cable, the port and the load of {name(slowest)}"))
        else:
            findings.append(ok(CHECK, text))
    return findings


def _way(links: list[Measured], hosts: list[str]) -> str:
    """By which interfaces these links lead."""
    if all(hosts[link.sender] == hosts[link.receiver] for link in links):
        return " inside the host"
    return f" over {', '.join(sorted({link.interface for link in links}))}"
