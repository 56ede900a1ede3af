"""The parts that faults are met with, one by one: status, lock, requests to stop, fingerprints."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from jobs import until

from hvd_imagenet.errors import DataError, OutOfStepError, SettingsError, StoppedError
from hvd_imagenet.faults import lock, stopping
from hvd_imagenet.faults import status as status_file
from hvd_imagenet.faults.fingerprints import require_same_weights
from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.faults.status import Ending, Status, ending_of
from hvd_imagenet.faults.stopping import StopRequests

WORKERS = [{"rank": 0, "host": "a", "pid": 5}]
ENDING = Ending(1, "worker 1 on b was ended by SIGKILL", 1, "b")


@pytest.fixture
def status(tmp_path):
    status = Status(tmp_path / "status.json", "this job")
    status.running(WORKERS)
    return status


def test_a_status_from_its_beginning_to_its_end(status, tmp_path):
    expected = {"status": "running", "exit_code": None, "reason": None, "rank": None, "host": None, "workers": WORKERS}
    assert status.read().items() >= expected.items()
    assert status.ended() is None
    assert status.end(ENDING)
    ended = {"status": "failed", "exit_code": 1, "reason": ENDING.reason, "rank": 1, "host": "b", "workers": WORKERS}
    assert status.read().items() >= ended.items()
    assert status.ended() == ENDING
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_the_account_of_another_job_is_left_alone(status, tmp_path):
    """A late witness of the job before, and a worker that asks before its own job's account has begun."""
    before = Status(tmp_path / "status.json", "the job before")
    assert before.end(ENDING) and status.read()["status"] == "running"
    assert status.end(ENDING) and status.ended() == ENDING
    assert before.ended() is None


@pytest.mark.parametrize(("code", "name"), [(0, "done"), (75, "stopped"), (4, "failed"), (143, "failed")])
def test_the_names_of_endings(code, name):
    assert Ending(code, "").status == name


def test_the_first_of_many_endings_wins(status):
    endings = [Ending(1, f"worker {rank}", rank) for rank in range(16)]
    first = []
    start = threading.Barrier(16)

    def end(ending):
        start.wait()
        if status.end(ending):
            first.append(ending)

    threads = [threading.Thread(target=end, args=[ending]) for ending in endings]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert first == [status.ended()]


def test_a_writer_that_died_is_waited_for_and_then_replaced(status, tmp_path):
    (tmp_path / "status.json.claim").touch()
    start = time.monotonic()
    assert status.end(ENDING) and status.ended() == ENDING
    assert 2 <= time.monotonic() - start < 10


def test_a_status_that_cannot_be_written_or_read(tmp_path):
    assert Status(tmp_path / "nowhere" / "status.json").end(ENDING)
    assert Status(None).end(ENDING) and Status(None).ended() is None
    (tmp_path / "status.json").write_text("{")
    assert Status(tmp_path / "status.json").ended() is None


def test_a_file_system_that_hangs_holds_nobody_up(tmp_path, monkeypatch):
    """A pipe that nobody writes to, in place of the file, blocks whoever opens it."""
    monkeypatch.setattr(status_file, "FILE_SECONDS", 0.3)
    os.mkfifo(tmp_path / "status.json")
    start = time.monotonic()
    assert Status(tmp_path / "status.json", "this job").ended() is None
    assert Status(tmp_path / "status.json", "this job").end(ENDING)
    assert time.monotonic() - start < 2


def test_the_ending_of_an_error():
    hosts = ["a", "b"]
    assert ending_of(DataError("7.jpg"), hosts, 1) == Ending(3, "worker 1 on b: 7.jpg", 1, "b")
    agreed = StoppedError("stopped")
    agreed.rank = 1
    assert ending_of(agreed, hosts, 0) == Ending(75, "stopped", 1, "b")
    assert ending_of(ValueError("x"), hosts, 0) == Ending(1, "worker 0 on a: ValueError('x')", 0, "a")


HOLD = """
import sys, time
from pathlib import Path
from hvd_imagenet.faults.lock import RunLock
RunLock(Path(sys.argv[1])).acquire(print)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_that_is_held_is_refused(tmp_path, holder):
    said = []
    with pytest.raises(SettingsError, match=f"in use by process {holder.pid} on {socket.gethostname()}; wait for it"):
        RunLock(tmp_path / "lock", patience=0.3).acquire(said.append)
    assert len(said) == 1 and "waiting up to 0.3 s" in said[0]


def test_a_lock_goes_with_its_holder(tmp_path, holder):
    threading.Timer(0.5, holder.kill).start()
    mine = RunLock(tmp_path / "lock", patience=20, beat=0.2)
    mine.acquire(lambda text: None)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    mine.release()
    assert (tmp_path / "lock").read_text() == ""
    RunLock(tmp_path / "lock", patience=0).acquire(pytest.fail)


def no_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def of_another_machine(monkeypatch):
    monkeypatch.setattr(lock, "_boot", lambda: "another")


@pytest.mark.parametrize("elsewhere", [no_flock, of_another_machine])
def test_where_flock_does_not_reach_the_heartbeat_counts(tmp_path, monkeypatch, elsewhere):
    path = tmp_path / "lock"
    theirs = RunLock(path, beat=0.5)
    theirs.acquire(pytest.fail)
    if elsewhere is of_another_machine:
        fcntl.flock(theirs._file, fcntl.LOCK_UN)  # as it is for a machine that does not see it
    elsewhere(monkeypatch)
    with pytest.raises(SettingsError, match="in use by process"):
        RunLock(path, patience=2.5, beat=0.5).acquire(lambda text: None)
    theirs._released.set()  # dead: no heartbeat, but the file still names it
    start = time.monotonic()
    RunLock(path, patience=10, beat=0.5).acquire(lambda text: None)
    assert time.monotonic() - start >= 1.5


def test_of_two_that_come_at_once_where_flock_does_not_reach_one_holds_the_folder(tmp_path, monkeypatch):
    no_flock(monkeypatch)
    (tmp_path / "lock").touch()
    both_there = threading.Barrier(2)
    waits = RunLock._wait

    def wait(self, say):
        waits(self, say)
        if not hasattr(self, "_met"):
            self._met = both_there.wait(5)  # both have found it free

    monkeypatch.setattr(RunLock, "_wait", wait)
    locks = [RunLock(tmp_path / "lock", patience=1, beat=0.2) for _ in range(2)]
    held = []

    def acquire(mine):
        with suppress(SettingsError):
            mine.acquire(lambda text: None)
            held.append(mine)

    threads = [threading.Thread(target=acquire, args=[mine]) for mine in locks]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(held) == 1
    held[0].release()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written .*; name another"):
        RunLock(tmp_path / "file" / "lock").acquire(pytest.fail)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_a_request_and_the_same_again_at_once_is_not_a_second(number):
    before = signal.getsignal(number)
    with StopRequests() as stop:
        assert stop.asked == ""
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop.asked)
        time.sleep(0.2)
        assert stop.asked in (f"got {signal.Signals(number).name}", "got SIGTERM")
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_at_once_even_where_python_does_not_run():
    program = """
import ctypes, os, signal, threading, time
from hvd_imagenet.faults.stopping import StopRequests
def tell():
    while not stop.asked:
        time.sleep(0.01)
    print("asked", flush=True)
with StopRequests() as stop:
    stop.at_once = lambda number: print("at once", number, flush=True)
    threading.Thread(target=tell, daemon=True).start()
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).pause()  # the main thread sits in C, as it does in Horovod
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"  # on a busy machine, later than it was sent
    time.sleep(stopping.ONE_REQUEST_SECONDS + 0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 128 + signal.SIGTERM
    assert process.stdout.read() == f"at once {signal.SIGTERM:d}\n"


def test_signals_are_taken_where_the_file_cannot_be_looked_for(tmp_path, monkeypatch):
    hangs = threading.Event()
    monkeypatch.setattr(os.path, "exists", lambda _: hangs.wait(20))
    with StopRequests() as stop:
        stop.file = tmp_path / "STOP"
        time.sleep(stopping.POLL_SECONDS + 0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: stop.asked, 2)
        assert stop.asked == "got SIGTERM"
    hangs.set()


def test_a_file_is_a_request_from_when_it_is_to_be_watched(tmp_path):
    (tmp_path / "STOP").touch()
    with StopRequests() as stop:
        time.sleep(1.2)
        assert stop.asked == ""
        stop.file = tmp_path / "STOP"
        until(lambda: stop.asked)
        assert stop.asked == f"found {tmp_path / 'STOP'}"


@pytest.mark.parametrize(
    ("launched", "otherwise", "asked"),
    [
        ({"HOROVOD_RANK": "0"}, "", "lost its launcher"),
        ({}, "", ""),
        ({"HOROVOD_RANK": "0"}, "stop.lost_launcher = lambda: stop.ask('something else')", "something else"),
    ],
)
def test_the_end_of_a_launcher_is_a_request_for_its_workers(launched, otherwise, asked, tmp_path):
    """It shows in that nobody takes their output; the reader of another process's output may go as it likes."""
    program = f"""
import time, pathlib
from hvd_imagenet.faults.stopping import StopRequests
with StopRequests() as stop:
    {otherwise}
    time.sleep(1.3)
    assert stop.asked == ""
    print("ready", flush=True)
    time.sleep(2.5)
    pathlib.Path({str(tmp_path / "asked")!r}).write_text(stop.asked)
"""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env={**outside, **launched})
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    process.wait(20)
    assert (tmp_path / "asked").read_text() == asked


STAYS = """
import sys, time
from pathlib import Path
from hvd_imagenet.faults.status import Status
from hvd_imagenet.faults.witness import end_if_it_stays
end_if_it_stays(Status(Path(sys.argv[1]), "this job"), int(sys.argv[2]), look=0.1, stay=0.5)
print("done", flush=True)
"""


@pytest.mark.parametrize(
    ("job", "known", "killed"),
    [
        ("this job", "failed", True),
        ("the next job", "running", True),
        ("this job", "running", False),
        ("this job", "failed for a moment", False),  # as a file server may say that is late
    ],
)
def test_a_worker_that_stays_when_its_job_has_ended_is_killed_by_its_witness(job, known, killed, tmp_path):
    def write(job, status):
        (tmp_path / "status.json").write_text(json.dumps({"job": job, "status": status}))

    write(job, known.partition(" ")[0])
    # The worker: the parent of a witness, stopped, so that nothing of its own can end it.
    witness = [sys.executable, "-c", STAYS, str(tmp_path / "status.json")]
    started = f"import os, subprocess; subprocess.run([*{witness}, str(os.getpid())])"
    worker = psutil.Popen([sys.executable, "-c", started])
    until(worker.children)
    [witness] = worker.children()
    worker.suspend()
    if known == "failed for a moment":
        for _ in range(10):
            write(job, "running")
            time.sleep(0.3)
            write(job, "failed")
            time.sleep(0.2)
        write(job, "running")
    else:
        time.sleep(3)
    assert (worker.wait(10) == -signal.SIGKILL) if killed else worker.status() == psutil.STATUS_STOPPED
    for process in (worker, witness):
        with suppress(psutil.NoSuchProcess):
            process.kill()


class Weights:
    """As much of a backend as a comparison needs: all workers' fingerprints, seen from one."""

    def __init__(self, *everyone, rank=0):
        self._everyone = [dict(zip(("conv1.weight", "bn1.weight", "fc.bias"), one, strict=True)) for one in everyone]
        self.rank, self.size = rank, len(everyone)

    def fingerprint(self):
        return self._everyone[self.rank]

    def gather(self, value):
        mine = self.fingerprint()
        return [one if value is mine else hash(tuple(one.values())) for one in self._everyone]


@pytest.mark.parametrize(
    ("everyone", "rank", "message"),
    [
        ([(1, 2, 3), (1, 2, 4)], 1, "the weights of worker 1 are not those of worker 0 any more, first in fc.bias"),
        ([(1, 2, 3), (1, 5, 4), (1, 5, 4)], 0, "the weights of worker 0 are not .*, first in bn1.weight"),
        ([(1, 2, 3), (0, 2, 3), (1, 2, 3), (1, 2, 0)], 1, "the weights of workers 1, 3 are not .* conv1.weight"),
    ],
)
def test_who_differs_and_where(everyone, rank, message):
    for seen_from in range(len(everyone)):
        with pytest.raises(OutOfStepError, match=f"after step 7, {message}") as raised:
            require_same_weights(Weights(*everyone, rank=seen_from), 7)
        assert raised.value.rank == rank and raised.value.exit_code == 5


def test_equal_weights():
    require_same_weights(Weights((1, 2, 3), (1, 2, 3)), 7)
