"""Elastic jobs: workers are killed, hosts leave and come, and the run is the one that it would have been."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import psutil
import pytest
from jobs import HOROVODRUN, Job, gone, steps_saved, until
from runs import GLOBAL, RECIPE, SAMPLES, metrics, weights

# Two names of this machine count as two hosts; one that fails is left alone for some seconds.
HOSTS = "localhost:1\n127.0.0.1:1\n"
# Thousands of steps agree to 1e-9 where each is short; a run goes on until it has seen what it is to see.
SLOW = RECIPE.replace("0.05", "0.0005")
ARGUMENTS = ["--checkpoint.every_epochs", "null", "--evaluate.every_epochs", 100000, "--faults.commit_every_steps", 7]
ARGUMENTS += ["--faults.stall_seconds", 10, "--epochs"]
ENDLESS = 100000


@pytest.fixture
def hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text(HOSTS)
    return file


@pytest.fixture
def begin(hosts, image_folder, tmp_path):
    """Starts an endless run on the two; ends what is left of it."""
    (tmp_path / "slow.yaml").write_text(SLOW)
    started = []

    def begin(*more):
        places = ["--min-np", 1, "-np", 2, "--network-interface", "lo", "--blacklist-cooldown-range", 1, 2]
        launcher = [sys.executable, "-c", HOROVODRUN, *places, "--host-discovery-script", f"cat {hosts}"]
        options = ["--config", tmp_path / "slow.yaml", "--data.path", image_folder, *ARGUMENTS, ENDLESS, *more]
        started.append(Job(launcher, tmp_path / "run", *options, HOROVOD_ELASTIC_TIMEOUT="60"))
        return started[-1]

    yield begin
    for job in started:
        job.kill()


def on(workers):
    return lambda job: len(job.workers()) == workers and job.status()["status"] == "running"


def beyond(step):
    return lambda job: (job.run / "metrics.jsonl").exists() and len(metrics(job.run, "step")) > step


def under_way(job):
    return on(2)(job) and beyond(20)(job)


def further(job):
    """Wait until a job has taken some steps more."""
    return job.until(beyond(len(metrics(job.run, "step")) + 20))


def require_undisturbed(job, tmp_path, image_folder, framework):
    """The same samples in the same steps, and the weights of a run that nothing has happened to; its restarts."""
    (job.run / "STOP").touch()
    job.end()
    assert job.status()["exit_code"] == 75, job.log()
    last = steps_saved(job.run)[-1] + 3
    options = ["--config", tmp_path / "slow.yaml", "--data.path", image_folder, "--framework", framework]
    options += [*ARGUMENTS, last * GLOBAL / SAMPLES]
    assert Job([], job.run, *options, "--resume").end(300) == 0  # to its end
    assert Job([], tmp_path / "alone", *options).end(300) == 0
    runs = job.run, tmp_path / "alone"
    seen, expected = ([(e["step"], e["samples_seen"]) for e in metrics(run, "step")] for run in runs)
    assert seen == expected
    losses = ([event["loss"] for event in metrics(run, "step")] for run in runs)
    assert np.abs(np.subtract(*losses)).max() < 1e-9
    found, right = (weights(run, last) for run in runs)
    for kind in right:
        assert found[kind].keys() == right[kind].keys()
        assert all(np.abs(found[kind][name] - right[kind][name]).max() < 1e-9 for name in right[kind])
    restarts = json.loads((job.run / "result.json").read_text())["restarts"]
    assert restarts == [{k: v for k, v in event.items() if k != "event"} for event in metrics(job.run, "restart")]
    return restarts[:-1]


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.long)])
def test_a_worker_that_is_killed_and_a_host_that_returns(framework, begin, image_folder, tmp_path):
    """Worker 0 of all, which wrote for all: the other goes on from what it has kept, alone, then with a new one."""
    job = begin("--framework", framework).until(under_way)
    job.signal(0, signal.SIGKILL)
    further(job.until(on(1)).until(on(2)))
    restarts = require_undisturbed(job, tmp_path, image_folder, framework)
    assert [(event["workers_before"], event["workers"]) for event in restarts] == [(2, 1), (1, 2)]
    assert restarts[0]["step"] % 7 == 0 and restarts[0]["step"] >= 14
    assert "worker 0 on" in restarts[0]["reason"] and "SIGKILL" in restarts[0]["reason"]
    assert restarts[1]["reason"] == "the hosts have changed"


def test_a_host_that_is_taken_away(begin, hosts, image_folder, tmp_path):
    """Without a failure, nothing is lost: the one that stays goes on from the very step."""
    job = begin().until(under_way)
    stays = psutil.Process(job.workers()[1]).environ()["HOROVOD_HOSTNAME"]
    hosts.write_text(f"{stays}:1\n")
    further(job.until(on(1)))
    [restart] = require_undisturbed(job, tmp_path, image_folder, "torch")
    assert (restart["workers"], restart["reason"]) == (1, "the hosts have changed")


@pytest.mark.long
def test_a_worker_that_is_stopped_is_ended_and_its_host_taken_back(begin, image_folder, tmp_path):
    """Nothing of its own can end it, and its launcher would wait for it for ever: its witness does."""
    job = begin().until(under_way)
    job.signal(1, signal.SIGSTOP)
    job.until(on(1), 180)
    further(job.until(on(2)))
    restarts = require_undisturbed(job, tmp_path, image_folder, "torch")
    assert "has not answered for 10 s" in restarts[0]["reason"]
    assert [event["workers"] for event in restarts] == [1, 2]


def test_a_failure_of_all_ends_all(begin):
    """A loss that is not finite: there is nobody who could go on."""
    wild = begin("--lr.reference", 1e30)
    wild.end()
    assert wild.status()["exit_code"] == 4
    assert not metrics(wild.run, "restart")


def test_the_end_of_the_launcher_ends_all_with_everything_saved(begin):
    job = begin().until(under_way)
    workers = job.workers().values()
    job.process.kill()
    until(lambda: gone(workers), 30)
    assert job.status()["exit_code"] == 75
    assert steps_saved(job.run)[-1] == metrics(job.run, "step")[-1]["step"]


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
