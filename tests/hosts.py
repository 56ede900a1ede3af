"""Several hosts on this machine: namespaces on a bridge, each with a name, an address, its processes and an sshd.

A host has a network, a host name, an /etc/hosts, an /etc/ssh and process numbers of its own. What it shares with the
others are disk, clock and kernel. One more, ``launcher``, is for the command that starts a job.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from debian import require_packages
from jobs import Started

LAUNCHER = "launcher"
PACKAGES = ["iproute2", "openssh-server", "openssh-client", "util-linux"]
DELAY = Path(__file__).with_name("delay.py")
LAUNCH = Path(__file__).parents[1] / "launch"
CLUSTER_SECONDS = 10  # for all sshd to answer
SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/{name}.keys
PidFile none
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
"""
SSH = """
Host *
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""
CLOCK = """
import socket, time
ahead = {ahead}.get(socket.gethostname(), 0)
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + ahead
time.time_ns = lambda: nanoseconds() + ahead * 10**9
"""


class Hosts:
    """Hosts ``node1``, ``node2``, ... and a launcher, from `__enter__` to `__exit__`.

    Args:
        count: of the hosts, without the launcher.
        folder: for keys and settings.

    Attributes:
        names: of the hosts, without the launcher; addresses: of all, by name.
    """

    def __init__(self, count: int, folder: Path):
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self.addresses = {name: f"10.71.0.{number}" for number, name in enumerate([*self.names, LAUNCHER], 1)}
        self._folder = folder
        self._prefix = f"hvd-{secrets.token_hex(3)}"
        self._switch = f"{self._prefix}-switch"
        self._daemons: dict[str, subprocess.Popen] = {}
        self._cables: list[subprocess.Popen] = []

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        started = [*self._daemons.values(), *self._cables]
        for process in started:
            process.kill()  # and with it a host's first process, at whose end the kernel ends all others of the host
        for process in started:
            process.wait()
        for name in [*map(self._namespace, self.addresses), self._switch]:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
        with suppress(OSError):
            os.rmdir("/etc/netns")  # if this test has made it

    def on(self, name: str, *command, folder: Path | None = None) -> list[str]:
        """The command that runs another one on a host, in a folder; both have the same environment and outputs."""
        entered = ["--target", self._first(name), "--net", "--uts", "--mount", "--pid"]
        return list(map(str, ["nsenter", *entered, f"--wdns={folder or self._folder}", "--", *command]))

    def run(self, name: str, *command, **options) -> subprocess.CompletedProcess:
        """Run a command on a host; output and errors as text."""
        return subprocess.run(self.on(name, *command), capture_output=True, text=True, **options)

    def processes(self, name: str) -> list[psutil.Process]:
        """All of a host's processes, but those of its sshd, which keeps sessions that TCP has not given up."""
        there = os.readlink(f"/proc/{self._first(name)}/ns/pid")
        found = psutil.process_iter(["name"])
        return [process for process in found if process.info["name"] != "sshd" and _namespace(process) == there]

    def workers(self, name: str) -> list[psutil.Process]:
        """The training processes of a host."""
        return [process for process in self.processes(name) if process.name() == "hvd-imagenet"]

    def left(self) -> list[psutil.Process]:
        """What still runs, on all hosts."""
        return [process for name in self.addresses for process in self.processes(name)]

    def set_link(self, name: str, up: bool) -> None:
        """Plug a host's cable in, or out."""
        _ip("-n", self._switch, "link", "set", name, "up" if up else "down")

    def mount(self, name: str, source: Path, folder: Path) -> None:
        """Let a host see another folder in the place of one."""
        self.run(name, "mount", "--bind", source, folder, check=True)

    def set_link_speed(self, name: str, rate: str, delay_ms: float = 0) -> None:
        """Limit what a host sends and what it is sent; once for each host.

        Args:
            rate: as tc has it, such as ``1gbit``.
            delay_ms: how much later it arrives, either way.
        """
        if delay_ms:
            self._delay(name, delay_ms)
        for namespace, device in ((self._namespace(name), "eth0"), (self._switch, name)):
            limit = ["tbf", "rate", rate, "burst", "256kb", "latency", "50ms"]
            _call("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *limit)

    def _delay(self, name: str, milliseconds: float) -> None:
        """Put a slow stretch of cable between a host's port and the switch."""
        near, far = f"{name}-near", f"{name}-far"
        delaying = [sys.executable, DELAY, near, far, milliseconds]
        command = ["ip", "netns", "exec", self._switch, *map(str, delaying)]
        self._cables.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        self._cables[-1].stdout.readline()
        _ip("-n", self._switch, "link", "add", f"{name}-port", "type", "bridge")
        for device, bridge in ((name, f"{name}-port"), (near, f"{name}-port"), (far, "bridge")):
            _ip("-n", self._switch, "link", "set", device, "master", bridge, "up")
        _ip("-n", self._switch, "link", "set", f"{name}-port", "up")

    def bind(self, name: str, cores: list[int]) -> None:
        """Keep all that is started on a host from now on, by ssh, to some cores."""
        psutil.Process(self._first(name)).cpu_affinity(cores)

    def set_keys(self, name: str, known: bool) -> None:
        """Whether a host lets anybody in."""
        key = (self._folder / "key.pub").read_text()
        (self._folder / f"{name}.keys").write_text(key if known else "")

    def set_address(self, name: str, address: str | None) -> None:
        """Set what a host's own name leads to there; None: nowhere."""
        path = Path("/etc/netns") / self._namespace(name) / "hosts"
        others = [line for line in path.read_text().splitlines() if line.split()[1] != name]
        path.write_text("\n".join([*others, *([f"{address} {name}"] if address else []), ""]))  # the same file: mounted

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _first(self, name: str) -> int:
        """The process number of a host's first process."""
        (child,) = psutil.Process(self._daemons[name].pid).children()
        return child.pid

    def _make(self) -> None:
        for kind in ("key", "host_key"):
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._folder / kind)
        os.makedirs("/run/sshd", exist_ok=True)  # without which it does not start
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in self.addresses:
            self._add(name)
        for name in self.addresses:
            self._wait_for_sshd(name)

    def _add(self, name: str) -> None:
        namespace, address = self._namespace(name), self.addresses[name]
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")

        etc = Path("/etc/netns") / namespace  # mounted over /etc by ip netns exec
        (etc / "ssh").mkdir(parents=True)
        known = {"localhost": "127.0.0.1", **self.addresses}
        (etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in known.items()))
        (etc / "ssh" / "ssh_config").write_text(SSH.format(folder=self._folder))
        (etc / "ssh" / "sshd_config").write_text(SSHD.format(folder=self._folder, name=name))
        self.set_keys(name, known=True)
        apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        start = f"hostname {name}; exec $(command -v sshd) -D -e"
        with (self._folder / f"{name}.log").open("w") as log:
            command = ["ip", "netns", "exec", namespace, *apart, "sh", "-c", start]
            self._daemons[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_for_sshd(self, name: str) -> None:
        give_up = time.monotonic() + CLUSTER_SECONDS
        log = self._folder / f"{name}.log"
        while "Server listening on" not in log.read_text():
            if time.monotonic() > give_up or self._daemons[name].poll() is not None:
                raise RuntimeError(f"sshd of {name}: {log.read_text()}")
            time.sleep(0.02)


def clocks_off(folder: Path, **ahead: int) -> dict[str, str]:
    """The environment in which Python sees, on the hosts so named, a time that is so many seconds ahead.

    The times of files stay, as those of a file server do. (Debian's faketime lets Python 3.11 wait for ever.)
    """
    (folder / "sitecustomize.py").write_text(CLOCK.format(ahead=ahead))  # which Python loads by itself
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


class HostsJob(Started):
    """A job that a script of launch/ has started on the launcher, on one worker of each host."""

    def __init__(self, hosts: Hosts, script: str, run: Path, *options, **environment):
        known = {"HOSTS": ",".join(f"{name}:1" for name in hosts.names)}
        known |= {"OMPI_ALLOW_RUN_AS_ROOT": 1, "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": 1}
        command = hosts.on(LAUNCHER, "bash", LAUNCH / script, *options, "--run", run)
        super().__init__(command, run, **{**known, **environment})

    def last_line(self) -> str:
        return self.log().splitlines()[-1]


def require_hosts() -> None:
    """Install what hosts need; skips the test where this machine does not allow them."""
    if os.geteuid() != 0:
        pytest.skip("several hosts need namespaces, and those root")
    require_packages(*PACKAGES)
    name = f"hvd-{secrets.token_hex(3)}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")


def _namespace(process: psutil.Process) -> str | None:
    with suppress(OSError):  # it may be gone
        return os.readlink(f"/proc/{process.pid}/ns/pid")
    return None


def _ip(*arguments: str) -> None:
    _call("ip", *arguments)


def _call(*command) -> None:
    subprocess.run(list(map(str, command)), check=True)
