"""The lock of a run's folder: one job at a time, whatever the file system can do."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from hvd_imagenet.errors import SettingsError
from hvd_imagenet.faults import lock
from hvd_imagenet.faults.lock import RunLock

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
