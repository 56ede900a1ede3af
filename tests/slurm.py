"""A real Slurm cluster on this machine: munged, slurmctld, and two slurmd, which take themselves for n1 and n2."""

import os
import re
import socket
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil
import pytest
from debian import require_packages
from jobs import until

PACKAGES = ("slurm-wlm", "munge")
NODES = ("n1", "n2")
START_SECONDS = 30
JOB_SECONDS = 240

# cred_expire: how long a requeued job waits before it starts again. TmpFS: what PMIx puts there is one node's own.
SETTINGS = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.log
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
ReturnToService=2
NodeName=n1 NodeHostname=n1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8
NodeName=n2 NodeHostname=n2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Cluster:
    """The daemons, from `__enter__` to `__exit__`, which leaves none of their processes.

    Args:
        folder: for all their files; not there yet.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._daemons: list[psutil.Popen] = []

    def __enter__(self):
        self.folder.mkdir()
        for name in ("state", *(f"{kind}-{node}" for kind in ("spool", "tmp") for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        settings = SETTINGS.format(host=socket.gethostname(), folder=self.folder, ports=free_ports(3))
        (self.folder / "slurm.conf").write_text(settings)
        with ExitStack() as failed:
            failed.callback(self._end_daemons)
            files = [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
            self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
            until((self.folder / "munge.socket").exists)
            self._start("slurmctld", "-D")
            # Another address for n2: what it has from the loopback interface's network leads here, too.
            (self.folder / "hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()} n1\n127.0.0.2 n2\n")
            for node in NODES:  # a host name of its own: by it, Open MPI tells one node from the other
                own = f"hostname {node} && mount --bind '{self.folder}/hosts' /etc/hosts && exec slurmd -D -N {node}"
                self._start("unshare", "--uts", "--mount", "bash", "-c", own)
            self._until(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2, START_SECONDS)
            failed.pop_all()
        return self

    def _start(self, *command):
        with (self.folder / "daemons.log").open("a") as log:
            self._daemons.append(
                psutil.Popen(
                    command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            )

    def __exit__(self, *_):
        try:
            own = {process.pid for daemon in self._daemons for process in (daemon, *daemon.children())}
            for process in self._processes():
                if process.pid not in own and not process.name().startswith("slurmstepd"):  # which tells of the end
                    process.kill()
            for job in self.ask("squeue", "-h", "-o", "%i").split():
                self.ask("scancel", job)
            self._until(lambda: not self.ask("squeue", "-h"), START_SECONDS)
        finally:
            self._end_daemons()

    def _end_daemons(self):
        for daemon in reversed(self._daemons):
            daemon.terminate()
        psutil.wait_procs(self._daemons, 10)
        for process in self._processes():
            process.kill()

    def _processes(self):
        """All that has come of this cluster and is alive: what knows its settings, or has a file of its folder open."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                files = [file.path for file in process.open_files()]
                known = process.environ().get("SLURM_CONF") == f"{self.folder}/slurm.conf"
                if known or any(Path(path).is_relative_to(self.folder) for path in files):
                    found.append(process)
        return [process for process in found if process.pid != os.getpid()]

    def environment(self, **more):
        """What commands need to reach this cluster, and jobs on one machine to run."""
        as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        slow = {"OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
        known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "HOROVOD_"))}
        own = {"SLURM_CONF": f"{self.folder}/slurm.conf", "TF_CPP_MIN_LOG_LEVEL": "3"}
        return {**known, **as_root, **slow, **own, **{name: str(value) for name, value in more.items()}}

    def ask(self, *command, **environment):
        """The output of one of Slurm's commands; empty where it fails."""
        command = list(map(str, command))
        return subprocess.run(command, env=self.environment(**environment), capture_output=True, text=True).stdout

    def submit(self, folder, *command, **environment):
        """The number of a new job: options of sbatch, the script, and its arguments; it runs in that folder."""
        options = ["--parsable", "--chdir", folder, "--output", folder / "slurm-%j.log"]
        command = list(map(str, ["sbatch", *options, *command]))
        done = subprocess.run(
            command, env=self.environment(**environment), cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job, key="JobState"):
        """What the controller knows of a job, such as its state."""
        found = re.search(rf"\b{key}=(\S+)", self.ask("scontrol", "-o", "show", "job", job))
        return found[1] if found else ""

    def wait(self, job, *states):
        """Wait until a job is in one of some states; which."""
        self._until(lambda: self.state(job) in states, JOB_SECONDS)
        return self.state(job)

    def _until(self, condition, seconds):
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, f"not in {seconds} s: {self.ask('scontrol', 'show', 'job')}"
            time.sleep(0.2)

    def completions(self, job):
        """State and exit code of each of a job's ends, as sacct tells them from the log that Slurm writes."""
        options = ["--completion", "--duplicates", "--noheader", "--parsable2", "--format=State,ExitCode"]
        return [tuple(line.split("|")) for line in self.ask("sacct", *options, "--jobs", job).splitlines()]


def free_ports(count):
    """Ports of the loopback interface that nobody listens at."""
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def require_slurm():
    """Install what a cluster needs, or skip the test with the reason why it cannot run here."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    require_packages(*PACKAGES)
    own = ["unshare", "--uts", "--mount", "bash", "-c", "hostname n1 && mount --bind /etc/hosts /etc/hosts"]
    done = subprocess.run(own, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no host names of their own for the nodes: {done.stderr.strip()}")
