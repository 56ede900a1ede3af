"""Elastic jobs: workers are killed, hosts leave and come, and the run is the one that it would have been."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest
from jobs import HOROVODRUN, Job, gone, steps_saved, until
from runs import closest, metrics, weights
from undisturbed import ENDLESS, OPTIONS, SLOW, further, require_undisturbed

# Two names of this machine count as two hosts; one that fails is left alone for some seconds.
HOSTS = "localhost:1\n127.0.0.1:1\n"


@pytest.fixture
def hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text(HOSTS)
    return file


def launcher(hosts, workers):
    places = ["--min-np", 1, "-np", workers, "--network-interface", "lo", "--blacklist-cooldown-range", 1, 2]
    return [sys.executable, "-c", HOROVODRUN, *places, "--host-discovery-script", f"cat {hosts}"]


class ElasticJob(Job):
    """A job on both hosts, endless."""

    def __init__(self, hosts, data, *options):
        folder = hosts.parent
        (folder / "slow.yaml").write_text(SLOW)
        self.options = ["--config", folder / "slow.yaml", "--data.path", data, *OPTIONS, *options]
        stall = ["--faults.stall_seconds", 10]
        super().__init__(
            launcher(hosts, 2), folder / "run", *self.options, *ENDLESS, *stall, HOROVOD_ELASTIC_TIMEOUT=60
        )

    def stop(self):
        (self.run / "STOP").touch()
        self.end()
        assert self.status()["exit_code"] == 75, self.log()


@pytest.fixture
def begin(hosts, image_folder):
    """Starts a job; ends what is left of it."""
    started = []

    def begin(*options):
        started.append(ElasticJob(hosts, image_folder, *options))
        return started[-1]

    yield begin
    for job in started:
        job.kill()


def on(workers):
    """A condition: the job runs on so many."""
    return lambda job: len(job.workers()) == workers and job.status()["status"] == "running"


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=pytest.mark.long)])
def test_a_worker_that_is_killed_and_a_host_that_returns(framework, begin, tmp_path):
    """Worker 0 of all, which wrote for all: the other goes on from what it has kept, alone, then with a new one."""
    job = begin("--framework", framework)
    job.until(on(2)).until(further(job.run)).signal(0, signal.SIGKILL)
    job.until(on(1)).until(on(2)).until(further(job.run)).stop()
    restarts = require_undisturbed(job.run, job.options, tmp_path)
    assert [(event["workers_before"], event["workers"]) for event in restarts] == [(2, 1), (1, 2)]
    assert restarts[0]["step"] % 7 == 0 and restarts[0]["step"] >= 14
    assert "worker 0 on" in restarts[0]["reason"] and "SIGKILL" in restarts[0]["reason"]
    assert restarts[1]["reason"] == "the hosts have changed"


# The launcher has a new host to tell of in the step after this one.
TOLD_OF_A_HOST = """
import os
if "HOROVOD_RANK" in os.environ:
    from hvd_imagenet import trainer
    trainer.Trainer._interrupted = lambda self: self._progress.step == {step} and not self._elastic.happened
"""


@pytest.mark.parametrize("step", [4, 7], ids=["at an epoch's end", "in the last step"])
def test_what_is_due_is_saved_and_evaluated_though_the_workers_begin_anew(
    step, hosts, recipe, image_folder, tmp_path, monkeypatch
):
    hosts.write_text("localhost:1\n")
    options = ["--config", recipe, "--data.path", image_folder]
    alone = Job([], tmp_path / "alone", *options)
    assert alone.end() == 0
    (tmp_path / "sitecustomize.py").write_text(TOLD_OF_A_HOST.format(step=step))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    job = Job(launcher(hosts, 1), tmp_path / "run", *options)
    assert job.end() == 0
    assert "the hosts have changed: begun anew, there were 1 workers" in job.log()
    assert steps_saved(job.run) == steps_saved(alone.run) and steps_saved(job.run)[-1] == 8
    assert [event["step"] for event in metrics(job.run, "eval")] == [3, 5, 8]
    found, right = (weights(run, 8) for run in (job.run, alone.run))
    assert all(closest(found[kind], right[kind]) < 1e-9 for kind in right)


@pytest.mark.long
def test_a_host_that_is_taken_away(begin, hosts, tmp_path):
    """Without a failure, nothing is lost: the one that stays goes on from the very step."""
    job = begin()
    job.until(on(2)).until(further(job.run))
    stays = psutil.Process(job.workers()[1]).environ()["HOROVOD_HOSTNAME"]
    hosts.write_text(f"{stays}:1\n")
    job.until(on(1)).until(further(job.run)).stop()
    [restart] = require_undisturbed(job.run, job.options, tmp_path)
    assert (restart["workers"], restart["reason"]) == (1, "the hosts have changed")


# Python's own hook at its start: a worker that is new on a host ends at once, or finds something wrong.
NEWCOMER = """
import os
if os.path.exists("{marker}") and "HOROVOD_RANK" in os.environ and "HVD_IMAGENET_COMMITTED" not in os.environ:
    {do}
"""
DIES = "os._exit(9)"
REFUSES = """
    from hvd_imagenet import startup
    from hvd_imagenet.errors import DataError
    def wrong(config): raise DataError("its data is not there; mount it")
    startup.require_data = wrong
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("do", "reason"),
    [(DIES, "worker 1 has not come in 10 s"), (REFUSES, "its data is not there; mount it")],
    ids=["dies", "refuses"],
)
def test_a_newcomer_that_cannot_join_is_left_out_until_it_can(do, reason, begin, tmp_path, monkeypatch):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(NEWCOMER.format(marker=tmp_path / "wrong", do=do))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hook'}:{os.environ.get('PYTHONPATH', '')}")
    job = begin()
    job.until(on(2)).until(further(job.run))
    (tmp_path / "wrong").touch()
    job.signal(1, signal.SIGKILL)
    job.until(lambda job: any(reason in event["reason"] for event in metrics(job.run, "restart")))
    (tmp_path / "wrong").unlink()
    job.until(on(2)).until(further(job.run)).stop()
    restarts = require_undisturbed(job.run, job.options, tmp_path)
    assert restarts[-1]["workers"] == 2 and {event["workers"] for event in restarts[:-1]} == {1}


@pytest.mark.long
def test_a_worker_that_is_stopped_is_ended_and_its_host_taken_back(begin, tmp_path):
    """Nothing of its own can end it, and its launcher would wait for it for ever: its witness does."""
    job = begin()
    job.until(on(2)).until(further(job.run)).signal(1, signal.SIGSTOP)
    job.until(on(1), 180).until(on(2)).until(further(job.run)).stop()
    restarts = require_undisturbed(job.run, job.options, tmp_path)
    assert "has not answered for 10 s" in restarts[0]["reason"]
    assert [event["workers"] for event in restarts] == [1, 2]


def test_a_failure_of_all_ends_all(begin):
    """A loss that is not finite: there is nobody who could go on."""
    wild = begin("--lr.reference", 1e30)
    wild.end()
    assert wild.status()["exit_code"] == 4
    assert not metrics(wild.run, "restart")


def test_the_end_of_the_launcher_ends_all_with_everything_saved(begin):
    job = begin()
    workers = job.until(on(2)).until(further(job.run)).workers().values()
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
        os.environ["HOROVOD_SIZE"] = "2"
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
        threading.Thread(target=lambda: elastic.begin_anew("lost")).start()
        time.sleep(60)
    os.waitpid(int(os.environ["CHILD"]), 0)
    state, progress = elastic.committed()
    print(os.getpid() == int(os.environ["PID"]), elastic.step, state.model["w"].tolist(), elastic.happened)
    print(progress == Progress(step=7, samples_seen=70))
    elastic.commit(state, Progress(8))
    print(elastic.committed()[1].step, "HVD_IMAGENET_COMMITTED" in os.environ)
    """)
    assert said.splitlines() == [
        "closed",
        "True 7 [7, 7, 7, 7, 7] {'workers': 2, 'reason': 'lost'}",
        "True",
        "8 False",
    ]


def test_nothing_committed_yet():
    said = program("""
    import os
    from hvd_imagenet.elastic import Elastic
    elastic = Elastic()
    if elastic.happened is None:
        os.environ["HOROVOD_SIZE"] = "4"
        elastic.begin_anew("lost")
    print(elastic.step, elastic.happened)
    """)
    assert said == "None {'workers': 4, 'reason': 'lost'}\n"
