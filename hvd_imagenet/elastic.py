"""Elastic jobs: hosts come and go, and the workers that stay begin anew, in place, from what they have committed.

A worker that has lost others cannot go on with what it has: an exchange that never ends, half a sum, sockets to the
dead, in libraries that were not written to be begun twice. So it replaces its program by a new one: to its launcher it
is the same process, and all else is as at the start of a job. What it has committed stays with it, in memory.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, NoReturn

from hvd_imagenet.backend import State
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.errors import LostContactError, RunError, StoppedError

KEPT = "HVD_IMAGENET_COMMITTED"  # what one program leaves to the next: the descriptor of a file in memory, and why
REACH_SECONDS = 8  # three tries of TCP to connect; less than after which a host that failed is tried again
ALIVE_SECONDS = 10  # between two signs of life of a launcher that has not answered yet
MEETING, PAUSE_SECONDS = "hvd-imagenet", 0.5  # where workers say in the launcher's store that they are there
PLACE = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"


class Elastic:
    """One worker's part in an elastic job: a context, in which it is one of the workers.

    What goes wrong in it before the first step, when workers have joined those of before, ends these alone.

    Attributes:
        hosts_changed: the launcher has hosts to add, or takes some away: begin anew after the step at hand.
        happened: why this worker has begun anew, and how many workers there were; None: it has not.
        anew: one of them has; known when they have met.
    """

    def __init__(self):
        self.hosts_changed = False
        self._cores = os.sched_getaffinity(0)  # as the launcher has left them, before they are shared out
        # The descriptor of what is committed, and its finished steps: in one, since another thread may begin anew.
        self._commit: tuple[int, int] | None = None
        self.happened: dict[str, Any] | None = None
        self.anew = False
        self._joining = False  # some have begun anew, others are new
        kept = json.loads(os.environ.pop(KEPT, "null"))
        if kept:
            self._commit, self.happened = kept["commit"], kept["happened"]
            if self._commit:
                os.set_inheritable(self._commit[0], False)

    @classmethod
    def of_this_job(cls) -> Elastic | None:
        """None: the launcher has started a job whose workers stay the same."""
        return cls() if os.environ.get("HOROVOD_ELASTIC") == "1" else None

    def __enter__(self) -> Elastic:
        """Hear of hosts from now on, and learn this worker's rank among those that are there now.

        First of all: the launcher tells of a host once, and frameworks take their time to load.

        Raises:
            LostContactError: the launcher cannot be reached: this host is cut off.
            StoppedError: there is no place for this worker: its host is to leave the job.
        """
        _ask("GET", f"/{MEETING}/all")  # whether it is there at all
        self._listen()
        if self.happened is not None:  # the launcher itself has given the first one
            self._take_place()
            self.hosts_changed = False  # what was told while it waited for its place is in the answer
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if isinstance(error, LostContactError):
            self.begin_anew(str(error))
        if isinstance(error, RunError):
            self.leave_out_newcomers(error)

    def _take_place(self) -> None:
        """The launcher gives ranks when it knows of every worker of before whether it goes on or has failed."""
        answer = _ask("GET", f"/rank_and_size/{os.environ['HOROVOD_HOSTNAME']}:{os.environ['HOROVOD_LOCAL_RANK']}")
        for name, number in zip(PLACE, answer.split(","), strict=True):
            os.environ[f"HOROVOD_{name}"] = number
        if answer.startswith("-1"):  # not an end with status 0: to the launcher, that would be the job's
            raise StoppedError("left out: the launcher has no place for this worker any more")

    def meet(self, seconds: float) -> None:
        """Wait until all workers are there and have loaded their framework; just before Horovod begins.

        Horovod would wait for one that has failed to load, and then end the process.

        Raises:
            LostContactError: not all of them have come in these seconds.
        """
        rank, size = int(os.environ["HOROVOD_RANK"]), int(os.environ["HOROVOD_SIZE"])
        give_up = time.monotonic() + seconds

        def answer(key: str, other: int) -> str:
            while (said := _ask("GET", f"/{MEETING}/{key}")) is None:
                if time.monotonic() > give_up:
                    raise LostContactError(f"worker {other} has not come in {seconds:g} s; is its host in order?")
                time.sleep(PAUSE_SECONDS)
            return said

        mine = "known" if self.happened else "new"
        if rank == 0:
            kinds = {mine, *(answer(str(other), other) for other in range(1, size))}
            _ask("PUT", f"/{MEETING}/all", " ".join(kinds))
        else:
            _ask("PUT", f"/{MEETING}/{rank}", mine)
            kinds = set(answer("all", 0).split())
        self.anew, self._joining = "known" in kinds, len(kinds) == 2

    def all_have_joined(self) -> None:
        """From now on, what goes wrong is everybody's."""
        self._joining = False

    def leave_out_newcomers(self, error: RunError) -> None:
        """Go on without those that have just joined, if somebody has; for them, this is the end."""
        if not self._joining or isinstance(error, LostContactError):  # which is nobody's who is here
            return
        if self.happened:
            self.begin_anew(f"without the workers that were to join: {error}")
        print(f"hvd-imagenet: error: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)

    def launcher_answers(self) -> bool:
        """Whether there is a launcher still; a worker whose own connection to it is closed may ask."""
        with suppress(OSError), socket.create_connection(_launcher(), REACH_SECONDS):
            return True
        return False

    def _listen(self) -> None:
        from horovod.common.elastic import notification_manager

        notification_manager.register_listener(self)
        notification_manager.init()

    def on_hosts_updated(self, timestamp: int, update: int) -> None:
        """Called by Horovod, on a thread of its own, on the first worker only."""
        self.hosts_changed = True

    @property
    def step(self) -> int | None:
        """Finished steps of what is committed; None: nothing is."""
        return self._commit[1] if self._commit else None

    def commit(self, state: State, progress: Progress) -> None:
        """Keep a state; the one before is kept until then."""
        before, file = self._commit, os.memfd_create("committed")
        with os.fdopen(os.dup(file), "wb") as written:
            pickle.dump((state, progress), written, protocol=5)
        self._commit = file, progress.step
        if before:
            os.close(before[0])

    def committed(self) -> tuple[State, Progress]:
        """What was kept last."""
        with os.fdopen(os.dup(self._commit[0]), "rb") as kept:
            kept.seek(0)
            return pickle.load(kept)

    def begin_anew(self, reason: str) -> NoReturn:
        """Replace this program by a new one, from any thread and in any state."""
        commit = self._commit
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2:
                _set_inheritable(descriptor, bool(commit) and descriptor == commit[0])  # what others wait on closes
        happened = {"workers": int(os.environ["HOROVOD_SIZE"]), "reason": reason}
        os.environ[KEPT] = json.dumps({"commit": commit, "happened": happened})
        os.sched_setaffinity(0, self._cores)
        with suppress(OSError):  # a launcher that is gone
            sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _launcher() -> tuple[str, int]:
    """Where the launcher tells workers their places."""
    return os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"], int(os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"])


def _ask(method: str, path: str, said: str | None = None) -> str | None:
    """What the launcher answers; None: it does not know of it.

    Raises:
        LostContactError: it cannot be reached.
    """
    host, port = _launcher()
    connection = HTTPConnection(host, port, timeout=REACH_SECONDS)
    try:
        connection.connect()
        _wait_while_alive(connection.sock)
        connection.request(method, path, body=said)
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == HTTPStatus.OK else None
    except (OSError, HTTPException) as error:
        reason = f"the launcher on {host} cannot be reached ({error})"
        raise LostContactError(f"{reason}; is this host cut off?") from None
    finally:
        connection.close()


def _wait_while_alive(connection: socket.socket) -> None:
    """From now on, wait for an answer however long it takes, but not for that of a host which is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, number in (("KEEPIDLE", ALIVE_SECONDS), ("KEEPINTVL", ALIVE_SECONDS), ("KEEPCNT", 6)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{option}"), number)


def _set_inheritable(descriptor: int, inheritable: bool) -> None:
    with suppress(OSError):  # closed since, as that of the listing itself
        os.set_inheritable(descriptor, inheritable)
