"""The watchdog, its links, and standstills: several workers in this process."""

import socket
import sys
import threading
import time
from functools import partial

import pytest
from jobs import until

from hvd_imagenet.backend import Pulse
from hvd_imagenet.faults import link, watchdog
from hvd_imagenet.faults.link import Address
from hvd_imagenet.faults.standstill import Standstill
from hvd_imagenet.faults.status import Ending, Status
from hvd_imagenet.faults.watchdog import Watchdog

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads that exit

HOSTS = ["a", "b", "c"]
ENDING = Ending(1, "worker 1 on b was ended by SIGKILL", 1, "b")


@pytest.fixture
def status(tmp_path):
    status = Status(tmp_path / "status.json", "this job")
    status.running([])
    return status


class Workers:
    """Watchdogs of several workers in this process; who leaves, with what, is written down."""

    def __init__(self, status, count, stall=2):
        self.left = {}
        self.pulses = [Pulse()] * count
        self.dogs = []
        for rank in range(count):
            pulse, leave = partial(self._pulse, rank), partial(self._leave, rank)
            self.dogs.append(Watchdog(HOSTS[:count], stall, status, pulse, leave))
        server, self.address = link.listen()
        self.dogs[0].serve(server, self.address)
        for rank in range(1, count):
            self.dogs[rank].follow(link.connect(self.address, rank))

    def _pulse(self, rank):
        return self.pulses[rank]

    def _leave(self, rank, ending, first):
        self.dogs[rank].broadcast(ending)
        self.left[rank] = ending, first
        for other in self.dogs[rank]._others.values():
            other.link.close()
        sys.exit()  # the thread, as otherwise the process

    def close(self):
        for rank, dog in enumerate(self.dogs):
            if rank not in self.left:
                dog.close()


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(watchdog, "ACCOUNT_SECONDS", 0.5)
    monkeypatch.setattr(watchdog, "FIRST_SECONDS", 0.5)


def test_nobody_leaves_as_long_as_all_answer(status):
    workers = Workers(status, 3)
    time.sleep(3)
    workers.close()
    assert workers.left == {} and status.ended() is None


@pytest.mark.parametrize("silent", [1, 0])
def test_a_silent_worker_is_named_by_all_others(status, silent):
    workers = Workers(status, 3)
    until(lambda: len(workers.dogs[0]._others) == 2)
    workers.dogs[silent]._listen = lambda: threading.Event().wait()  # as SIGSTOP does
    until(lambda: len(workers.left) == 2)
    for rank in {0, 1, 2} - {silent}:
        ending, _ = workers.left[rank]
        assert (ending.exit_code, ending.rank, ending.host) == (1, silent, "abc"[silent])
        assert "has not answered for 2 s (faults.stall_seconds)" in ending.reason
    assert all(ending == status.ended() for ending, _ in workers.left.values())
    assert sum(first for _, first in workers.left.values()) == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_worker_that_is_gone(status, told):
    workers = Workers(status, 3)
    until(lambda: 1 in workers.dogs[0]._others)
    if told:
        status.end(ENDING)  # by its witness
    next(iter(workers.dogs[1]._others.values())).link.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: {0, 2} <= workers.left.keys())
    ending, first = workers.left[0]
    assert workers.left[2] == (ending, False)
    if told:
        assert ending == ENDING and not first
    else:
        assert "worker 1 on b is gone" in ending.reason and first
    assert status.ended() == ending


def test_a_witness_is_given_its_time_however_long_ago_the_last_beat_was(status):
    workers = Workers(status, 2, stall=20)  # a beat of 4 seconds
    until(lambda: 1 in workers.dogs[0]._others)
    time.sleep(1)
    threading.Timer(0.2, status.end, [ENDING]).start()
    next(iter(workers.dogs[1]._others.values())).link.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: 0 in workers.left)
    assert workers.left[0] == (ENDING, False)


def test_a_report_ends_all(status):
    workers = Workers(status, 3)
    workers.dogs[2].report(ENDING)
    until(lambda: len(workers.left) == 3)
    assert workers.left == {0: (ENDING, True), 1: (ENDING, False), 2: (ENDING, False)}


def test_a_farewell_is_not_a_loss(status):
    workers = Workers(status, 3)
    until(lambda: len(workers.dogs[0]._others) == 2)
    workers.dogs[1].close()
    time.sleep(1.2)
    assert workers.left == {}
    workers.dogs.pop(1)
    workers.close()


def test_closing_meets_the_thread_at_any_moment(status):
    for _ in range(30):
        workers = Workers(status, 2)
        until(lambda workers=workers: 1 in workers.dogs[0]._others)
        workers.close()
        assert workers.left == {}


def test_a_worker_that_comes_again_is_watched_by_its_newer_connection(status):
    workers = Workers(status, 2)
    until(lambda: 1 in workers.dogs[0]._others)
    watched = workers.dogs[0]._others[1]
    old = watched.link
    again = link.connect(workers.address, 1)
    until(lambda: workers.dogs[0]._others.get(1, watched).link is not old)  # for a moment, there is none
    until(lambda: 0 in workers.left or 1 in workers.left)  # the new connection is silent, the old one was closed
    again.close()
    workers.close()


def test_strangers_are_not_taken_for_workers(status):
    workers = Workers(status, 2)
    address = workers.address
    assert link.connect(Address(address.hosts, address.port, "a guess"), 1) is None
    stranger = socket.create_connection(("127.0.0.1", address.port))
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n[1]\n{}\n")
    time.sleep(0.5)
    assert workers.left == {} and list(workers.dogs[0]._others) == [1]
    workers.close()


def test_no_address_that_answers(status):
    server, address = link.listen()
    server.close()
    assert link.connect(Address(("127.0.0.1", "::1"), address.port, address.token), 1) is None


def test_a_worker_that_hangs_is_named(status):
    workers = Workers(status, 3)
    until(lambda: len(workers.dogs[0]._others) == 2)
    workers.pulses = [Pulse(8, 20), Pulse(7, 21), Pulse(8, 20)]
    time.sleep(3)
    assert workers.left == {}  # the others may be waited for as long as the job has not begun
    workers.dogs[0].expect_progress()
    give_up = time.monotonic() + 4
    while time.monotonic() < give_up:  # work without a meeting, such as a long evaluation, is progress
        workers.pulses[1] = workers.pulses[1].worked()
        time.sleep(0.2)
    assert workers.left == {}
    until(lambda: len(workers.left) == 3)
    ending, first = workers.left[0]
    assert first and status.ended() == ending and (ending.exit_code, ending.rank, ending.host) == (1, 1, "b")
    assert "all wait for worker 1 on b, which has got no further for 2 s (faults.stall_seconds)" in ending.reason


@pytest.mark.parametrize(
    ("meetings", "rank", "reason"),
    [
        ([8, 7, 7], 1, "all wait for worker 1 on b, 2 on c, which"),
        ([6, 7, 7], 0, "all wait for worker 0 on a, which"),
        ([7, 7, 7], None, "no worker has got any further for 10 s"),
    ],
)
def test_who_stands_still(meetings, rank, reason):
    pulses = {number: Pulse(count, 3) for number, count in enumerate(meetings)}
    standstill = Standstill(HOSTS, 10)
    assert standstill.look({0: Pulse(0, 0)}, 60) is None  # the first look finds a change
    assert standstill.look(pulses, 60) is None
    assert standstill.look(pulses, 9.9) is None
    ending = standstill.look(pulses, 0.1)
    assert ending.reason.startswith(reason) and ending.rank == rank and ending.exit_code == 1


def test_any_progress_begins_the_count_anew():
    standstill = Standstill(HOSTS, 10)
    pulse = Pulse()
    for _ in range(3):
        for change in (pulse.worked(), pulse.met()):
            pulse = change
            assert standstill.look({0: pulse, 1: Pulse()}, 5) is None
            assert standstill.look({0: pulse, 1: Pulse()}, 9.9) is None
    assert standstill.look({0: pulse, 1: Pulse()}, 0.2) is not None
