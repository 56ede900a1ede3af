"""One run of a study, where two starts of the study have begun it at the same time."""

import json
import os
import shlex
import socket
import threading

import pytest
from jobs import until
from studies import NAMES, prepared

from hvd_imagenet.faults.lock import RunLock
from hvd_imagenet.study import job
from hvd_imagenet.study.display import Display
from hvd_imagenet.study.runner import Runner
from hvd_imagenet.study.shares import Share

PATIENCE = 60


def test_a_run_that_another_start_has_taken_meanwhile_is_waited_for(image_folder, tmp_path, monkeypatch, capsys):
    """Both have begun it; this one's is refused after its patience, in which the other has written its account."""
    monkeypatch.setenv("PRETENDED", str(tmp_path / "noted"))
    monkeypatch.setenv("LATE", NAMES[0])
    folder = prepared(tmp_path, image_folder)
    run = folder.path / NAMES[0]

    def other_start():
        until((tmp_path / "noted").exists, PATIENCE)
        until(run.exists, PATIENCE)
        lock = RunLock(run / "lock")
        lock.acquire(print)
        until(lambda: f"end {NAMES[-1]}" in (tmp_path / "noted").read_text(), PATIENCE)
        (run / "result.json").write_text('{"median5_top1": 0.9}')
        lock.release()

    other = threading.Thread(target=other_start)
    other.start()
    with Display(folder) as display:
        left = Runner(folder, [str(tmp_path / "pretends")], [Share()], display).run()
    other.join()
    assert (left.failed, left.stopped) == ([], [])
    said = capsys.readouterr().out
    assert f"{NAMES[0]}: waits" in said and f"{NAMES[0]}: error 10.00 %; 4 of 4 runs done" in said


class Asleep:
    """In the place of a child process."""

    pid = 4711

    def __init__(self, *_, **__):
        pass

    def poll(self):
        return None


@pytest.mark.parametrize(("host", "pid", "mine"), [(None, 4711, True), (None, 4712, False), ("elsewhere", 4711, False)])
def test_only_its_own_job_is_asked_to_stop(host, pid, mine, image_folder, tmp_path, monkeypatch):
    """Without a launcher, the worker is the process that was begun. Until it has the folder, it is ended at once."""
    folder = prepared(tmp_path, image_folder)
    ended = []
    monkeypatch.setattr(job.subprocess, "Popen", Asleep)
    monkeypatch.setattr(os, "killpg", lambda group, number: ended.append(group))
    run = folder.study.runs()[0]
    begun = job.Job(folder, run, [], Share())
    assert not begun.has_begun()
    folder.run(run).mkdir()
    workers = [{"rank": 0, "host": host or socket.gethostname(), "pid": pid}]
    (folder.run(run) / "status.json").write_text(json.dumps({"status": "running", "job": "new", "workers": workers}))
    assert begun.has_begun() == mine
    begun.stop()
    assert (folder.run(run) / "STOP").exists() == mine and ended == ([] if mine else [4711])


def test_a_job_begun_by_a_launcher_has_workers_of_other_numbers(image_folder, tmp_path, monkeypatch):
    folder = prepared(tmp_path, image_folder)
    monkeypatch.setattr(job.subprocess, "Popen", Asleep)
    run = folder.study.runs()[0]
    begun = job.Job(folder, run, shlex.split("mpirun -np 2"), Share())
    folder.run(run).mkdir()
    workers = [{"rank": 0, "host": "elsewhere", "pid": 12}]
    (folder.run(run) / "status.json").write_text(json.dumps({"status": "running", "job": "new", "workers": workers}))
    assert begun.has_begun()
