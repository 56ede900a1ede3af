"""Jobs as their users start them: launchers in the background, workers that can be sent signals, statuses."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE = 90  # seconds
PYTHON = [sys.executable, "-m", "hvd_imagenet.cli"]


# horovodrun, asking PyTorch what Horovod was built with, not TensorFlow, which takes seconds longer to say the same.
HOROVODRUN = """
from horovod.common import util
util.EXTENSIONS = ["torch"]
from horovod.runner.launch import run_commandline
run_commandline()
"""


# Both frameworks come to life in the process of the tests, and their two Horovods must not share one MPI.
ALONE = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}


def outside():
    """The environment for jobs, from Python's own copy: MPI adds to the real one, and mpirun fails of that."""
    return {name: value for name, value in os.environ.items() if name not in ALONE}


def gloo(workers):
    places = ["-np", workers, "-H", f"localhost:{workers}", "--gloo", "--network-interface", "lo"]
    return [sys.executable, "-c", HOROVODRUN, *places]


def mpi(workers):
    yielding = ["--mca", "mpi_yield_when_idle", "1"]
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", *yielding, "-np", workers]


class Started:
    """A command that runs in the background, and trains.

    Attributes:
        process: of the command; in a session of its own.
        run: the run's folder.
    """

    def __init__(self, command, run, **environment):
        self.run = Path(run)
        self._log = self.run.with_name(f"{self.run.name}-{time.monotonic_ns()}.log")
        self._known = (self.status() or {}).get("job")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                env={
                    **outside(),
                    **{"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"},
                    **{name: str(value) for name, value in environment.items()},
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, condition, seconds=PATIENCE):
        """Wait for a condition on this job; a job that ends before fails the test."""
        give_up = time.monotonic() + seconds
        while not condition(self):
            assert self.process.poll() is None, f"ended before: {self.log()}"
            assert time.monotonic() < give_up, f"not in {seconds} s: {self.log()}"
            time.sleep(0.002)
        return self

    def end(self, seconds=PATIENCE):
        """The launcher's exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds} s: {self.log()}") from None

    def kill(self):
        """SIGKILL to the launcher, until it is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def workers(self):
        """The workers' process ids by rank; empty before they have begun."""
        status = self.status() or {"job": self._known}
        return {} if status["job"] == self._known else {worker["rank"]: worker["pid"] for worker in status["workers"]}

    def status(self):
        path = self.run / "status.json"
        return json.loads(path.read_text()) if path.exists() else None

    def log(self):
        return self._log.read_text()


class Job(Started):
    """A training job under a launcher, on this machine."""

    def __init__(self, launcher, run, *arguments, script=(), **environment):
        super().__init__([*script, *launcher, *PYTHON, "train", "--run", run, *arguments], run, **environment)

    def signal(self, rank, number):
        os.kill(self.workers()[rank], number)

    def kill(self):
        """SIGKILL to all workers at once, and then to the launcher, until they are gone."""
        workers = [psutil.Process(pid) for pid in self.workers().values() if psutil.pid_exists(pid)]
        for worker in workers:
            worker.kill()
        psutil.wait_procs(workers, PATIENCE)
        super().kill()


def has_saved(step):
    """A condition for `Job.until`: there is a checkpoint of that step or a later one."""
    return lambda job: job.workers() and any(saved >= step for saved in steps_saved(job.run))


def steps_saved(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*[0-9]"))


def until(condition, seconds=10):
    """Wait for a condition."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def gone(pids):
    """Whether none of the processes is alive any more; those of a launcher that has just ended get a moment."""
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    psutil.wait_procs(alive, 5)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
