"""The workers' own connections to worker 0, over which the doctor works where Horovod does not."""

from __future__ import annotations

import json
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from hvd_imagenet.faults.link import Address, connect

LENGTH = struct.Struct("!Q")
RELAY_SECONDS = 20  # for an answer to get from worker 0 to all
ROUND_TRIPS, PING_SECONDS = 5, 5
HELLO_SECONDS = 3  # for a connection to say whose it is
LONGEST = 2**28  # bytes: whatever claims to be longer is no message of ours


class MeetingError(Exception):
    """The workers cannot find each other, or have lost each other: why, in one line."""


class Meeting:
    """This worker's place in the circle of all; no exchange takes longer than it is given.

    Args:
        rank, size: of this worker among all.
        connections: of worker 0, to each of the others by rank; of the others, to worker 0.
    """

    def __init__(self, rank: int, size: int, connections: dict[int, socket.socket]):
        self.rank, self.size = rank, size
        self._connections = connections

    def gather(self, value: Any, seconds: float) -> list[Any]:
        """Every worker's value, as JSON has it, in the order of the ranks; None for those that are not heard of.

        Args:
            seconds: that the slowest worker may take to come here after the first.

        Raises:
            MeetingError: worker 0 is not heard of.
        """
        give_up = time.monotonic() + seconds
        if self.rank:
            self._send(0, _message(value))
            # Worker 0 may be the slowest, and then wait for the others in its turn.
            return self._receive(0, give_up + seconds + RELAY_SECONDS)
        values = [value]
        for rank in range(1, self.size):
            heard = None
            with suppress(MeetingError):
                heard = self._receive(rank, give_up)
            values.append(heard)
        message = _message(values)
        for rank in list(self._connections):
            with suppress(MeetingError):
                self._send(rank, message)
        return values

    def clocks(self) -> list[float | None]:
        """How many seconds each worker's clock is ahead of worker 0's; right to half of a message's round trip.

        Raises:
            MeetingError: worker 0 is not heard of.
        """
        offsets: list[float | None] = [0.0]
        if self.rank:
            for _ in range(ROUND_TRIPS):  # worker 0 may have waited for some others before
                self._receive(0, time.monotonic() + 2 * RELAY_SECONDS)
                self._send(0, _message(time.time()))
        else:
            offsets += [self._clock(rank) for rank in range(1, self.size)]
        return self.gather(offsets, RELAY_SECONDS)[0]

    def own_address(self) -> str | None:
        """The address by which this worker has met another host's; None: it has met none."""
        for connection in self._connections.values():
            with suppress(OSError):  # it may have ended
                ends = connection.getsockname(), connection.getpeername()
                own, other = (end[0].removeprefix("::ffff:") for end in ends)
                if own != other:
                    return own
        return None

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _clock(self, rank: int) -> float | None:
        quickest, offset = float("inf"), None
        with suppress(MeetingError):
            for _ in range(ROUND_TRIPS):
                asked, begun = time.time(), time.monotonic()
                self._send(rank, _message("?"))
                theirs = self._receive(rank, begun + PING_SECONDS)
                took = time.monotonic() - begun
                if took < quickest:
                    quickest, offset = took, theirs - (asked + took / 2)
        return offset

    def _send(self, rank: int, message: bytes) -> None:
        self._try(rank, lambda connection: connection.sendall(message), RELAY_SECONDS)

    def _receive(self, rank: int, give_up: float) -> Any:
        def whole(connection: socket.socket) -> Any:
            (length,) = LENGTH.unpack(_read(connection, LENGTH.size, give_up))
            if length > LONGEST:
                raise ValueError("what was received is no message")
            return json.loads(_read(connection, length, give_up))

        return self._try(rank, whole, RELAY_SECONDS)

    def _try(self, rank: int, action, seconds: float) -> Any:
        """Do something with a worker's connection; one that fails is not used again."""
        try:
            connection = self._connections[rank]
            connection.settimeout(seconds)
            return action(connection)
        except (OSError, ValueError, KeyError) as error:
            lost = self._connections.pop(rank, None)
            if lost is not None:
                lost.close()
            raise MeetingError(f"worker {rank} is not heard of any more ({error or 'silence'})") from None


def open_to(address: Address, server: socket.socket, size: int, seconds: float) -> Meeting:
    """As worker 0: wait for all others to come, or for so many seconds."""
    give_up = time.monotonic() + seconds
    connections: dict[int, socket.socket] = {}
    while len(connections) < size - 1 and time.monotonic() < give_up:
        arrived = admit(server, address.token, give_up)
        if arrived:
            rank, connection = arrived
            connections[rank] = connection
    server.close()
    return Meeting(0, size, connections)


def join(address: Address, rank: int, size: int, seconds: float) -> Meeting:
    """As any other worker: go to worker 0.

    Raises:
        MeetingError: it cannot be reached.
    """
    give_up = time.monotonic() + seconds
    while True:
        link = connect(address, rank)
        if link:
            link.socket.setblocking(True)
            return Meeting(rank, size, {0: link.socket})
        if time.monotonic() > give_up:
            raise MeetingError(f"worker 0 cannot be reached at any of {', '.join(address.hosts)}, port {address.port}")
        time.sleep(0.2)


def admit(server: socket.socket, token: str, give_up: float) -> tuple[int, socket.socket] | None:
    """The next connection of a worker that knows the token, with its rank; None: none came, or a stranger."""
    try:
        server.settimeout(max(0.01, give_up - time.monotonic()))
        connection, _ = server.accept()
    except OSError:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        data, late = b"", time.monotonic() + HELLO_SECONDS
        while not data.endswith(b"\n") and len(data) < 1000:  # byte by byte: what follows is another message
            if time.monotonic() > late:
                raise TimeoutError("it does not say who it is")
            data += _read(connection, 1, late)
        said = json.loads(data)
        if said["token"] == token:
            connection.sendall(json.dumps({"token": token}).encode() + b"\n")
            return int(said["rank"]), connection
    connection.close()
    return None


def _message(value: Any) -> bytes:
    data = json.dumps(value).encode()
    return LENGTH.pack(len(data)) + data


def _read(connection: socket.socket, length: int, give_up: float) -> bytes:
    data = bytearray()
    while len(data) < length:
        connection.settimeout(max(0.01, give_up - time.monotonic()))
        part = connection.recv(min(length - len(data), 1 << 20))
        if not part:
            raise ConnectionError("the connection is closed")
        data += part
    return bytes(data)
