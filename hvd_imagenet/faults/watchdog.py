"""Notices that a worker is gone, stopped, cut off or hangs, and ends all others with that reason."""

from __future__ import annotations

import dataclasses
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from hvd_imagenet.backend import Pulse
from hvd_imagenet.errors import LostContactError
from hvd_imagenet.faults.link import Address, Link
from hvd_imagenet.faults.standstill import Standstill
from hvd_imagenet.faults.status import Ending, Status

# Where the workers keep all cores busy, a thread that wakes up costs milliseconds of training: so it seldom does.
BEAT_SECONDS = 5.0
LOOK_SECONDS = 0.5  # between two looks at what has become of a worker that is gone
# How long to wait for the account of a worker's end, by itself or by its witness; and for what worker 0 has to say.
# Together less than the five seconds after which horovodrun kills all that are left, and their witnesses.
ACCOUNT_SECONDS, FIRST_SECONDS = 2.0, 1.0


@dataclasses.dataclass
class _Watched:
    """What is known of another worker; times in seconds."""

    link: Link
    heard: bool = False
    silent: float = 0.0
    gone: float = 0.0
    pulse: Pulse = Pulse()


class Watchdog:
    """A thread that exchanges heartbeats: worker 0 with all others, every other with worker 0.

    Time is counted in its own beats. So a job that is suspended as a whole, or a machine that sleeps, does not
    count as a stall when it goes on. That a connection is closed is seen at once.

    Args:
        hosts: of all workers.
        stall_seconds: how long a worker may be silent.
        status: of the job.
        pulse: tells how far this worker has got.
        leave: ends this process; given the ending, and whether this worker was the first to tell of it.
    """

    def __init__(
        self,
        hosts: list[str],
        stall_seconds: float,
        status: Status,
        pulse: Callable[[], Pulse],
        leave: Callable[[Ending, bool], NoReturn],
    ):
        self._hosts = hosts
        self._stall = stall_seconds
        self._beat = min(BEAT_SECONDS, stall_seconds / 5)
        self._status = status
        self._pulse = pulse
        self._leave = leave
        self._standstill: Standstill | None = None
        self._selector = selectors.DefaultSelector()
        self._others: dict[int, _Watched] = {}
        self._closing = False
        self._waking, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(64))
        self._reported: Ending | None = None
        self._server: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def serve(self, server: socket.socket, address: Address) -> None:
        """Begin, as worker 0: take connections of those who know the address's token."""
        self._server, self._token = server, address.token
        server.setblocking(False)
        self._selector.register(server, selectors.EVENT_READ, self._accept)
        self._thread.start()

    def follow(self, link: Link) -> None:
        """Begin, as any other worker."""
        self._watch(0, link)
        self._thread.start()

    def expect_progress(self) -> None:
        """From now on, a worker may hang no longer than it may be silent; for worker 0, which sees all pulses."""
        self._standstill = Standstill(self._hosts, self._stall, slack=2 * self._beat)

    def report(self, ending: Ending) -> None:
        """Tell all workers that this one cannot go on; they and it then end, from the watchdog's thread."""
        self._reported = ending
        self._waking.send(b".")

    def close(self) -> None:
        """Say farewell: what becomes of this worker from now on does not matter to the others."""
        self._closing = True
        self._waking.send(b".")
        self._thread.join()
        for end in (self._waking, self._woken):
            end.close()

    def _run(self) -> None:
        while not self._closing:
            self._broadcast({"pulse": self._pulse()})
            passed = self._listen()
            if self._reported is not None:
                self._tell(self._reported)
                self._reported = None
            for rank, other in list(self._others.items()):
                self._look_at(rank, other)
            if self._standstill:
                pulses = {rank: other.pulse for rank, other in self._others.items()}
                ending = self._standstill.look({0: self._pulse(), **pulses}, passed)
                if ending:
                    self._end(ending)
        self._broadcast({"farewell": True})
        for other in self._others.values():
            other.link.close()
        self._selector.close()
        if self._server:
            self._server.close()

    def _listen(self) -> float:
        """Take what the others send, for one beat, or until there is something to look at or to say; the seconds."""
        gone = {rank for rank, other in self._others.items() if other.link.ended}
        seconds = min(LOOK_SECONDS, self._beat) if gone else self._beat
        start = time.monotonic()
        while (left := start + seconds - time.monotonic()) > 0 and not (self._reported or self._closing):
            for key, _ in self._selector.select(left):
                key.data()
            if not gone and any(other.link.ended for other in self._others.values()):
                break
        passed = min(time.monotonic() - start, seconds)
        for rank, other in self._others.items():
            other.silent = 0.0 if other.heard else other.silent + passed
            other.gone += passed if rank in gone else 0.0  # not the time before, in which it was still there
            other.heard = False
        return passed

    def _accept(self) -> None:
        with suppress(OSError):  # it may be gone again
            connection, _ = self._server.accept()
            link = Link(connection)
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._greet(link))

    def _greet(self, link: Link) -> None:
        """A new connection has sent its first message: it belongs to a worker if it knows the token."""
        messages = link.receive()
        if messages or link.ended:
            self._selector.unregister(link.socket)
            if messages and messages[0].get("token") == self._token:
                link.send({"token": self._token})
                self._watch(messages[0]["rank"], link)
            else:
                link.close()

    def _watch(self, rank: int, link: Link) -> None:
        if rank in self._others:  # it has come again, by another address
            self._forget(rank)
        self._others[rank] = _Watched(link)
        self._selector.register(link.socket, selectors.EVENT_READ, lambda: self._hear(rank))

    def _hear(self, rank: int) -> None:
        other = self._others[rank]
        other.heard = True
        for message in other.link.receive():
            if "farewell" in message:
                self._forget(rank)
                return
            if "ending" in message:
                self._end(Ending(**message["ending"]))
            if "pulse" in message:
                other.pulse = Pulse(*message["pulse"])
        if other.link.ended:
            self._selector.unregister(other.link.socket)

    def _forget(self, rank: int) -> None:
        other = self._others.pop(rank)
        if not other.link.ended:
            self._selector.unregister(other.link.socket)
        other.link.close()

    def _look_at(self, rank: int, other: _Watched) -> None:
        name = f"worker {rank} on {self._hosts[rank]}"
        remedy = "run again with --resume to go on"
        # Where a connection is cut, both ends miss each other: the first worker, which sees all, gets to say it first.
        extra = FIRST_SECONDS if rank == 0 else 0.0
        if other.link.ended:
            told = self._status.ended()
            if told:
                self._end(told)
            elif other.gone >= ACCOUNT_SECONDS + extra:
                self._lost(rank, f"{name} is gone: killed with all that belongs to it, or its host failed; {remedy}")
        elif other.silent >= self._stall + (extra and extra + 2 * self._beat):  # both may have been heard a beat apart
            silence = f"{name} has not answered for {self._stall:g} s (faults.stall_seconds)"
            self._lost(rank, f"{silence}: it is stopped, or its host or network is down; {remedy}")

    def _lost(self, rank: int, reason: str) -> None:
        self._end(Ending(LostContactError.exit_code, reason, rank, self._hosts[rank]))

    def _tell(self, ending: Ending) -> None:
        """This worker's own ending: the first worker's business where there is one to hear of it."""
        if 0 in self._others and not self._others[0].link.ended:
            self._others[0].link.send({"ending": dataclasses.asdict(ending)})
        else:
            self._end(ending)

    def _end(self, ending: Ending) -> NoReturn:
        first = self._status.end(ending)
        ending = ending if first else self._status.ended() or ending
        self._leave(ending, first)

    def broadcast(self, ending: Ending) -> None:
        """Pass an ending on to whoever listens, as the last thing before leaving."""
        self._broadcast({"ending": dataclasses.asdict(ending)})

    def _broadcast(self, message: dict[str, Any]) -> None:
        for other in self._others.values():
            other.link.send(message)
