"""The parts that faults are met with, one by one: requests to stop, the witness, fingerprints."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from jobs import until

from hvd_imagenet.errors import OutOfStepError
from hvd_imagenet.faults import stopping
from hvd_imagenet.faults.fingerprints import require_same_weights
from hvd_imagenet.faults.stopping import StopRequests


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
