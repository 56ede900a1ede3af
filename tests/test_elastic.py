"""Elastic jobs: workers are killed, hosts leave and come, and the run is the one that it would have been."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import psutil
import pytest
from jobs import HOROVODRUN, Job
from runs import metrics, weights

# Two names of this machine count as two hosts; one that fails is left alone for a second or two.
HOSTS = "localhost:1\n127.0.0.1:1\n"
ARGUMENTS = ["--log.every_steps", 1, "--checkpoint.every_epochs", "null", "--evaluate.every_epochs", 1000]
ARGUMENTS += ["--faults.stall_seconds", 10, "--faults.commit_every_steps", 7]


@pytest.fixture
def hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text(HOSTS)
    return file


def elastic(hosts, least=1):
    options = ["--min-np", least, "--max-np", 2, "-np", 2, "--network-interface", "lo"]
    options += ["--blacklist-cooldown-range", 1, 2, "--host-discovery-script", f"cat {hosts}"]
    return [sys.executable, "-c", HOROVODRUN, *options]


def begin(hosts, run, recipe, data, framework, epochs, *more):
    arguments = ["--config", recipe, "--data.path", data, "--framework", framework, "--epochs", epochs, *ARGUMENTS]
    return Job(elastic(hosts), run, *arguments, *more, HOROVOD_ELASTIC_TIMEOUT="60")


def on(workers):
    return lambda job: job.workers() and len(job.workers()) == workers and (job.status() or {})["status"] == "running"


def beyond(step):
    return lambda job: (job.run / "metrics.jsonl").exists() and len(metrics(job.run, "step")) > step


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.long)])
def test_a_worker_that_is_killed_and_a_host_that_returns(framework, hosts, recipe, image_folder, tmp_path):
    """Worker 0 of all, which wrote for all: the other goes on from what it has kept, alone, then with a new one."""
    epochs = 300
    job = begin(hosts, tmp_path / "killed", recipe, image_folder, framework, epochs).until(on(2)).until(beyond(20))
    job.signal(0, signal.SIGKILL)
    job.until(on(1)).until(on(2))
    assert job.end(300) == 0
    restarts = metrics(job.run, "restart")
    assert [event["workers"] for event in restarts] == [1, 2]
    assert [event["workers_before"] for event in restarts] == [2, 1]
    assert restarts[0]["step"] % 7 == 0 and restarts[0]["step"] >= 14
    assert "worker 0 on" in restarts[0]["reason"] and "SIGKILL" in restarts[0]["reason"]
    assert restarts[1]["reason"] == "the hosts have changed"
    result = json.loads((job.run / "result.json").read_text())
    assert [event["step"] for event in result["restarts"]] == [event["step"] for event in restarts]
    require_undisturbed(job, tmp_path, recipe, image_folder, framework, epochs)


def require_undisturbed(job, tmp_path, recipe, data, framework, epochs):
    """The same samples in the same steps, and the weights of a run that nothing has happened to."""
    arguments = ["--config", recipe, "--data.path", data, "--framework", framework, "--epochs", epochs, *ARGUMENTS]
    alone = Job([], tmp_path / "alone", *arguments)
    assert alone.end(300) == 0
    seen, expected = (
        [(event["step"], event["samples_seen"]) for event in metrics(run, "step")] for run in (job.run, alone.run)
    )
    assert seen == expected
    losses = ([event["loss"] for event in metrics(run, "step")] for run in (job.run, alone.run))
    assert np.abs(np.subtract(*losses)).max() < 1e-9
    found, right = (weights(run, expected[-1][0]) for run in (job.run, alone.run))
    for kind in right:
        assert found[kind].keys() == right[kind].keys()
        assert all(np.abs(found[kind][name] - right[kind][name]).max() < 1e-9 for name in right[kind])


def test_a_host_that_is_taken_away(hosts, recipe, image_folder, tmp_path):
    """Without a failure, nothing is lost: the one that stays goes on from the very step."""
    job = begin(hosts, tmp_path / "run", recipe, image_folder, "torch", 400).until(on(2)).until(beyond(20))
    stays = psutil.Process(job.workers()[1]).environ()["HOROVOD_HOSTNAME"]
    hosts.write_text(f"{stays}:1\n")
    job.until(on(1))
    assert job.end(300) == 0
    [restart] = metrics(job.run, "restart")
    assert (restart["workers"], restart["reason"]) == (1, "the hosts have changed")
    require_undisturbed(job, tmp_path, recipe, image_folder, "torch", 400)


def test_stopping_and_failing_end_all(hosts, recipe, image_folder, tmp_path):
    job = begin(hosts, tmp_path / "run", recipe, image_folder, "torch", 5000).until(on(2)).until(beyond(5))
    (job.run / "STOP").touch()
    job.end()
    assert job.status()["exit_code"] == 75
    assert not metrics(job.run, "restart")
    wild = begin(hosts, tmp_path / "wild", recipe, image_folder, "torch", 400, "--lr.reference", 1e30)
    wild.end()
    assert wild.status()["exit_code"] == 4
    assert not metrics(wild.run, "restart")


def program(text):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_program_in_place_of_the_old_keeps_what_was_committed():
    """The same process, from a thread, with another that hangs; what others wait on closes, the last commit stays."""
    said = program("""
    import os, socket, threading, time
    import numpy as np
    from hvd_imagenet.backend import State
    from hvd_imagenet.checkpoint import Progress
    from hvd_imagenet.elastic import Elastic
    elastic = Elastic()
    if elastic.happened is None:
        other, own = socket.socketpair()
        own.set_inheritable(True)
        child = os.fork()
        if child == 0:
            own.close()
            print("closed" if other.recv(1) == b"" else "open", flush=True)
            os._exit(0)
        other.close()
        for step in (3, 7):
            elastic.commit(State({"w": np.full(5, step)}, {"w": np.zeros(2)}), Progress(step, 10 * step))
        os.environ["PID"], os.environ["CHILD"] = str(os.getpid()), str(child)
        threading.Thread(target=lambda: elastic.begin_anew(2, "lost")).start()
        time.sleep(60)
    os.waitpid(int(os.environ["CHILD"]), 0)
    state, progress = elastic.committed()
    print(os.getpid() == int(os.environ["PID"]), elastic.step, state.model["w"].tolist(), progress, elastic.happened)
    elastic.commit(state, Progress(8))
    print(elastic.committed()[1].step, "HVD_IMAGENET_COMMITTED" in os.environ)
    """)
    assert said.splitlines() == [
        "closed",
        "True 7 [7, 7, 7, 7, 7] Progress(step=7, samples_seen=70, train_seconds=0.0, wall_seconds=0.0, evaluations=[], "
        "evaluation_due=False) {'workers': 2, 'reason': 'lost'}",
        "8 False",
    ]


def test_nothing_committed_yet():
    said = program("""
    from hvd_imagenet.elastic import Elastic
    elastic = Elastic()
    if elastic.happened is None:
        elastic.begin_anew(4, "lost")
    print(elastic.step, elastic.happened)
    """)
    assert said == "None {'workers': 4, 'reason': 'lost'}\n"
