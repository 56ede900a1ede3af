"""status.json: what has become of a job, whoever tells it first."""

import os
import threading
import time

import pytest

from hvd_imagenet.errors import DataError, StoppedError
from hvd_imagenet.faults import status as status_file
from hvd_imagenet.faults.status import Ending, Status, ending_of

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
