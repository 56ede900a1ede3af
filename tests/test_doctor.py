"""The doctor: faults that are planted, each found; nothing found where nothing is wrong."""

import ctypes
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import horovod
import pytest
from conftest import LAUNCH_SECONDS
from doctors import DOCTOR, examined, lines
from jobs import gloo, gone, mpi, outside, until
from rich.console import Console

from hvd_imagenet.doctor import gpus, guard, limits, meeting, names, network, packages
from hvd_imagenet.doctor import horovod as horovod_check
from hvd_imagenet.doctor import mpi as mpi_check
from hvd_imagenet.doctor.child import Child, ChildError
from hvd_imagenet.doctor.compare import compared
from hvd_imagenet.doctor.findings import FAILURE, OK, WARNING, Finding, of_error
from hvd_imagenet.doctor.launch import ALONE, GLOO, MPI, Launch, read_launch
from hvd_imagenet.doctor.report import Report
from hvd_imagenet.faults.link import listen
from hvd_imagenet.gpu import Gpu, visible

HOST = socket.gethostname()
alone = Launch("no launcher", ALONE, 0, 1, 0, 1)
MPI_NAMES = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"


def doctor(*options, before=(), inside=(), folder=None, **environment):
    """The report, and how the command ended; `before` and `inside` are what starts it, or its launcher."""
    return examined([*before, *inside, *DOCTOR, *options], LAUNCH_SECONDS, folder, **environment)


def shim(folder, package, text):
    """A package that stands in front of the installed one."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(text)
    return folder


def path_with(*folders):
    return os.pathsep.join(map(str, [*folders, os.environ.get("PYTHONPATH", "")]))


def may_mount():
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not may_mount(), reason="mounts need namespaces, and those root")
needs_interface = pytest.mark.skipif(names._reachable() == "ADDRESS", reason="no interface but lo has an address")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, image_folder):
    """The report of this machine as it is."""
    return doctor("--data", image_folder)


def test_nothing_is_wrong_where_nothing_is(healthy):
    report, done = healthy
    assert lines(report, FAILURE) == [], done.stderr
    assert (done.returncode, report["failures"], report["launcher"], report["workers"]) == (0, 0, "no launcher", 1)
    assert any("1 worker(s) meet over" in text for text in lines(report, OK, "Horovod"))
    assert lines(report, OK, "decode: CPU") and lines(report, OK, "open files") and lines(report, OK, "MPI")
    assert any("2 classes, 50 in train, 23 in val" in text for text in lines(report, OK, "data"))
    assert any("read in random order: " in text for text in lines(report, OK, "data"))


@pytest.fixture(scope="module")
def sick(tmp_path_factory, image_shards):
    """The report of a host with many faults at once."""
    if not may_mount():
        pytest.skip("mounts need namespaces, and those root")
    root = tmp_path_factory.mktemp("sick")
    (root / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {HOST}\n")
    data = shutil.copytree(image_shards, root / "data")
    shard = next((data / "train").glob("*.tar"))
    os.truncate(shard, shard.stat().st_size - 1)
    copied = root / "copied" / "horovod"  # of links but for the notes
    copied.mkdir(parents=True)
    for path in Path(horovod.__file__).parent.iterdir():
        (copied / path.name).symlink_to(path)
    (copied / "metadata.json").unlink()
    (copied / "metadata.json").write_text(json.dumps({"pytorch": "2.12.0", "tensorflow": "2.20.0"}))
    shim(root / "shims", "nvidia", "raise ImportError('libnvidia is missing')")
    mpirun = root / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.3'\n")
    mpirun.chmod(0o755)
    (root / "full").mkdir()
    script = f"""
        mount --bind {root}/hosts /etc/hosts
        mount -t tmpfs -o size=8m tmpfs /dev/shm
        mount -t tmpfs -o size=1m tmpfs {root}/full
        cd {root}/full
        ulimit -n 64
        exec "$@"
    """
    return doctor(
        "--data",
        data,
        before=["unshare", "-m", "sh", "-ec", script, "sh"],
        PYTHONPATH=path_with(root / "copied", root / "shims"),
        PATH=f"{root / 'bin'}:{os.environ['PATH']}",
        HOROVOD_GLOO_IFACE="nosuch0",
    )


@pytest.mark.parametrize(
    ("level", "check", "text"),
    [
        (WARNING, "host name", f"{HOST} stands for 127.0.1.1, a loopback address"),
        (FAILURE, "interfaces", "HOROVOD_GLOO_IFACE names nosuch0, which this host does not have"),
        (FAILURE, "shared memory", "/dev/shm has 8 MiB free of 8, for 1 worker(s)"),
        (FAILURE, "open files", "64 at most; give 1,024 or more"),
        (FAILURE, "disk: runs", "has 0.0 GiB free"),
        (FAILURE, "versions", "Horovod was built for torch 2.12.0, and 2.13.0"),
        (WARNING, "versions", "Horovod was built for tensorflow 2.20.0, and 2.21.0"),
        (FAILURE, "decode: CPU", "DALI fails: libnvidia is missing"),
        (WARNING, "MPI", "is Open MPI 5.0.3: workers will not find each other"),
        (FAILURE, "data", "missing or cut short"),
        (FAILURE, "Horovod", "Horovod was built for another version"),
    ],
)
def test_each_planted_fault_is_found(sick, level, check, text):
    report, done = sick
    assert any(text in found for found in lines(report, level, check)), report["findings"]


def test_the_end_names_what_failed(sick):
    report, done = sick
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hvd-imagenet: error: doctor: versions, ")
    assert all(found["remedy"] for found in report["findings"] if found["level"] != OK)


@pytest.mark.parametrize(("framework", "package"), [("torch", "torch"), ("keras", "tensorflow")])
def test_a_framework_that_does_not_load_is_named(framework, package, tmp_path):
    path = path_with(shim(tmp_path, package, "raise ImportError('libbroken.so: no such file')"))
    report, done = doctor("--framework", framework, PYTHONPATH=path)
    assert done.returncode == 1
    assert any("libbroken.so: no such file" in text for text in lines(report, FAILURE, "Horovod"))
    assert lines(report, OK, "decode: CPU")


@pytest.mark.parametrize("launcher", [gloo, mpi])
def test_one_report_of_two_workers(launcher, image_shards, tmp_path):
    other = tmp_path / "1"
    shutil.copytree(image_shards, tmp_path / "0")
    shutil.copytree(image_shards, other)
    notes = json.loads((other / "dataset.json").read_text())
    notes["splits"]["val"]["shards"][0]["sha256"] = "0" * 64
    (other / "dataset.json").write_text(json.dumps(notes))
    fake = tmp_path / "fake" / "numpy-1.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    (tmp_path / "fake0").mkdir()
    rank = "${HOROVOD_RANK:-$OMPI_COMM_WORLD_RANK}"
    each = f"""[ {rank} = 0 ] || export PYTHONPATH={tmp_path}/fake:$PYTHONPATH; exec "$@" --data {tmp_path}/{rank}"""
    report, done = doctor(
        "--network",
        before=launcher(2),
        inside=["env", "--", "sh", "-c", each, "sh"],
        PYTHONPATH=path_with(tmp_path / "fake0"),
    )
    assert (report["launcher"], report["workers"]) == ({gloo: "horovodrun", mpi: "mpirun"}[launcher], 2)
    over = {gloo: "Gloo", mpi: "MPI"}[launcher]
    assert any(f"2 worker(s) meet over {over} and sum over {over}" in text for text in lines(report, OK, "Horovod"))
    assert len(lines(report, OK, "network")) == 2  # TCP, and Horovod
    (version,) = lines(report, FAILURE, "versions")
    assert f"numpy: {report['facts'][0]['versions']['numpy']} on {HOST} (worker 0), 1.0 on {HOST}" in version
    (contents,) = lines(report, FAILURE, "data")
    assert "val is not the same data set everywhere" in contents
    assert len(lines(report, FAILURE)) == 2
    assert lines(report, OK, "clocks")
    assert done.returncode == 1
    assert done.stdout.count('{"launcher"') == 1
    assert sorted(fact["rank"] for fact in report["facts"]) == [0, 1]


def test_workers_that_each_find_themselves_alone_are_a_failure():
    """As where srun and the MPI inside do not know each other."""
    report, done = doctor(SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="2", SLURM_LOCALID="0", SLURM_STEP_TASKS_PER_NODE="2")
    assert done.returncode == 1
    (text,) = lines(report, FAILURE, "workers")
    assert "srun started 2 workers, but MPI's library sees 1: each would train alone" in text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import time; time.sleep(600)", "no answer within 2 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("raise OSError('cannot\\nopen')", "OSError: cannot open"),
    ],
)
def test_a_check_that_hangs_or_crashes_is_a_line(body, said, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(shim(tmp_path, "nvidia", body))
    begun = time.monotonic()
    (found,) = guard.look([guard.Check("decode", "decode", 2)], alone).findings
    assert (found.level, found.check) == (FAILURE, "decode")
    assert said in found.text
    assert time.monotonic() - begun < 10


def test_a_hanging_child_ends_with_who_asked(tmp_path):
    shim(tmp_path, "nvidia", f"open({str(tmp_path / 'hanging')!r}, 'w'); import time; time.sleep(600)")
    program = "from hvd_imagenet.doctor.child import Child; c = Child('decode'); print(c._process.pid, flush=True); "
    program += f"c.ask('look', 600, launch={vars(alone)!r})"
    environment = {**outside(), "PYTHONPATH": path_with(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    until((tmp_path / "hanging").exists, 60)
    parent.kill()
    parent.communicate()
    until(lambda: gone([child]), 10)


def test_a_child_may_be_asked_again_after_an_error():
    with Child("limits") as child:
        with pytest.raises(ChildError, match="AttributeError"):
            child.ask("nothing", 20)
        assert child.ask("look", 20, launch=alone)["findings"]


def found_with_hosts(text, launch, tmp_path):
    """What `names` finds of the host's name with an /etc/hosts of that text, and whether Gloo would start in vain."""
    (tmp_path / "hosts").write_text(text)
    program = "import json, sys; from dataclasses import asdict; from hvd_imagenet.doctor import names; "
    program += "print(json.dumps(asdict(names.look(json.loads(sys.argv[1])))))"
    script = f'mount --bind {tmp_path}/hosts /etc/hosts; exec "$@"'
    command = ["unshare", "-m", "sh", "-ec", script, "sh", sys.executable, "-c", program, json.dumps(vars(launch))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    (own,) = (Finding(**values) for values in found["findings"] if values["check"] == "host name")
    return own, found["facts"]["unreachable"]


class Asked:
    """In the place of the process for Horovod: it is there, with Gloo, and every sum is right."""

    def __init__(self):
        self.functions = []

    def ask(self, function, seconds, **arguments):
        self.functions.append(function)
        loaded = {"built": {"Gloo": True}, "on_gpu": False, "versions": {"CUDA": "13.0"}}
        return loaded if function == "load" else {"size": 2, "sum": 2, "controller": "Gloo"}


@pytest.mark.parametrize(
    ("unreachable", "asked", "last"),
    [
        (None, ["load", "start"], (OK, "2 worker(s) meet over Gloo and sum over Gloo; a sum is right")),
        (False, ["load", "start"], (OK, "2 worker(s) meet over Gloo and sum over Gloo; a sum is right")),
        (True, ["load"], (FAILURE, "not started: no other host would reach this one")),
    ],
)
def test_gloo_is_not_started_on_a_host_that_none_reaches(unreachable, asked, last):
    collective, launch = Asked(), Launch("horovodrun", GLOO, 0, 2, 0, 1)
    found = horovod_check.look(launch, meeting.Meeting(0, 1, {}), collective, {"unreachable": unreachable}).findings
    assert (collective.functions, (found[-1].level, found[-1].text)) == (asked, last)
    assert found[0].text == "for torch built with Gloo; CUDA 13.0"


@needs_mounts
@pytest.mark.parametrize(
    ("address", "kind", "local_size", "level"),
    [
        ("127.0.1.1", GLOO, 1, FAILURE),
        ("127.0.1.1", GLOO, 2, WARNING),
        ("127.0.1.1", MPI, 1, WARNING),
        ("10.1.2.3", GLOO, 1, FAILURE),  # of some other host
        ("10.1.2.3", MPI, 1, WARNING),
        pytest.param(names._reachable(), GLOO, 1, OK, marks=needs_interface),
    ],
)
def test_the_own_name_breaks_gloo_between_hosts(address, kind, local_size, level, tmp_path):
    launch = Launch("a launcher", kind, 0, 2, 0, local_size)
    found, unreachable = found_with_hosts(f"127.0.0.1 localhost\n{address} {HOST}\n", launch, tmp_path)
    assert (found.level, address in found.text, unreachable) == (level, True, level == FAILURE)
    assert ("/etc/hosts" in found.remedy) == (level != OK)


@pytest.mark.parametrize(
    ("variable", "value", "several", "level"),
    [
        ("HOROVOD_GLOO_IFACE", "lo", False, OK),
        ("HOROVOD_GLOO_IFACE", "lo", True, FAILURE),
        ("NCCL_SOCKET_IFNAME", "l", False, OK),  # a beginning
        ("NCCL_SOCKET_IFNAME", "=l", False, FAILURE),
        ("NCCL_SOCKET_IFNAME", "=lo", False, OK),
        ("HOROVOD_GLOO_IFACE", "l", False, FAILURE),
        ("NCCL_SOCKET_IFNAME", "^nosuch", False, None),
        ("OMPI_MCA_btl_tcp_if_include", "lo,nosuch", False, FAILURE),
        ("OMPI_MCA_btl_tcp_if_include", "127.0.0.0/8", False, OK),
        ("OMPI_MCA_btl_tcp_if_include", "203.0.113.0/24", False, FAILURE),  # of no network, for documents
    ],
)
def test_named_interfaces_are_looked_up(variable, value, several, level, monkeypatch):
    for name in (names.GLOO_IFACE, names.NCCL_IFACE, names.MPI_IFACE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    launch = Launch("horovodrun", GLOO, 0, 2, 0, 1 if several else 2)
    found = [one for one in names.look(vars(launch)).findings if variable in one.text]
    assert (found[-1].level if found else None) == level


@pytest.mark.parametrize(
    ("kind", "on_gpu", "environment", "addresses"),
    [
        (GLOO, False, {"HOROVOD_GLOO_IFACE": "ib1"}, ["10.1.0.1", "fd00::1"]),
        (GLOO, False, {"OMPI_MCA_btl_tcp_if_include": "ib1"}, []),  # not read by Gloo
        (GLOO, True, {"HOROVOD_GLOO_IFACE": "eth0", "NCCL_SOCKET_IFNAME": "ib"}, ["10.1.0.1", "fd00::1", "10.2.0.1"]),
        (GLOO, False, {"HOROVOD_GLOO_IFACE": "eth0", "NCCL_SOCKET_IFNAME": "ib"}, ["192.168.0.1"]),
        (MPI, True, {"NCCL_SOCKET_IFNAME": "^ib,lo"}, ["192.168.0.1"]),
        (MPI, True, {"NCCL_SOCKET_IFNAME": "=ib"}, []),
        (MPI, True, {"OMPI_MCA_btl_tcp_if_include": "eth0"}, ["192.168.0.1"]),
        (MPI, False, {"OMPI_MCA_btl_tcp_if_include": "10.2.0.0/16"}, ["10.2.0.1"]),
        (MPI, False, {"OMPI_MCA_btl_tcp_if_include": "ib1,192.168.0.0/24"}, ["192.168.0.1", "10.1.0.1", "fd00::1"]),
        (MPI, False, {"HOROVOD_GLOO_IFACE": "ib1"}, []),
    ],
)
def test_a_measurement_heeds_what_the_launch_is_told(kind, on_gpu, environment, addresses):
    interfaces = {"eth0": ["192.168.0.1"], "ib1": ["10.1.0.1", "fd00::1"], "ib12": ["10.2.0.1"], "lo": ["127.0.0.1"]}
    assert names.chosen(Launch("a launcher", kind, 0, 2, 0, 1), on_gpu, interfaces, environment) == addresses


def test_the_address_that_workers_have_met_at_is_tried_first():
    hosts = tuple(f"10.0.0.{number}" for number in range(1, 7))
    assert network.likeliest(hosts, [], "10.0.0.6") == ("10.0.0.6", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert network.likeliest(hosts, [], None) == hosts[:4]
    assert network.likeliest(hosts, ["10.0.0.5", "10.0.0.2"], "10.0.0.6") == ("10.0.0.2", "10.0.0.5")
    assert network.likeliest(hosts, ["fd00::1"], "10.0.0.6")[0] == "10.0.0.6"  # where nobody listens to IPv6


@pytest.mark.parametrize(("limit", "level"), [(255, FAILURE), (256, WARNING), (1023, WARNING), (1024, OK), (-1, OK)])
def test_limits_have_two_bounds(limit, level):
    assert limits.at_least("open files", limit, 256, 1024, "ulimit -n").level == level


@pytest.mark.parametrize(
    ("asked", "installed", "built", "horovod", "level"),
    [
        (True, "2.13.0", "2.13.0", True, OK),
        (True, "2.13.0", "2.12.0", True, FAILURE),
        (False, "2.13.0", "2.12.0", True, WARNING),
        (True, "2.13.0", None, True, FAILURE),
        (True, None, None, True, FAILURE),
        (False, None, None, True, None),
        (True, "2.13.0", None, False, None),  # that Horovod is missing is said once
    ],
)
def test_horovod_is_for_exactly_these_versions(asked, installed, built, horovod, level):
    found = packages._fit("torch", asked, installed, built, horovod)
    assert [one.level for one in found] == ([level] if level else [])


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/", "Open MPI 4.1.4"),
        ("Open MPI v5.0.3, package: Open MPI root@x Distribution, ident: 5.0.3", "Open MPI 5.0.3"),
        ("orted (OpenRTE) 4.1.4", "Open MPI 4.1.4"),
        ("HYDRA build details:\n    Version:                                 4.0.2", "MPICH 4.0.2"),
        ("MPICH Version:      4.0.2", "MPICH 4.0.2"),
        ("command not found", None),
    ],
)
def test_versions_of_mpi_are_read(said, version):
    assert mpi_check.short(said) == version


@pytest.mark.parametrize(
    ("outside_it", "kind", "level"),
    [
        ("Open MPI 4.1.4", MPI, OK),
        ("Open MPI 4.1.5", MPI, WARNING),
        ("Open MPI 5.0.3", MPI, FAILURE),
        ("Open MPI 5.0.3", ALONE, WARNING),
        ("MPICH 4.1.4", MPI, FAILURE),
        ("PMIx 4.2.2", MPI, OK),
    ],
)
def test_mpis_two_halves_are_compared(outside_it, kind, level):
    launch = Launch("mpirun", kind, 0, 1, 0, 1)
    assert mpi_check._compared("", "Open MPI 4.1.4", "mpirun", outside_it, launch).level == level


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, ("no launcher", ALONE, 0, 1, 0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, ("no launcher", ALONE, 0, 1, 0, 1)),  # a batch script
        (
            {
                "SLURM_PROCID": "3",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
            },
            ("srun", MPI, 3, 4, 1, 2),
        ),
        (
            {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(MPI_NAMES, "5821", strict=True)},
            ("mpirun", MPI, 5, 8, 2, 1),
        ),
    ],
)
def test_the_launch_is_read_from_the_environment(environment, launch):
    assert read_launch(environment) == Launch(*launch)


def test_a_gpu_without_a_worker_is_a_warning(monkeypatch):
    monkeypatch.setattr(gpus, "visible", lambda: 2)
    monkeypatch.setattr(gpus, "identify", [Gpu("X"), Gpu("Y")].__getitem__)
    assert [one.level for one in gpus.look(vars(Launch("mpirun", MPI, 0, 1, 0, 1))).findings] == [OK, WARNING]
    assert [one.level for one in gpus.look(vars(alone)).findings] == [OK]
    assert gpus.look(vars(Launch("mpirun", MPI, 1, 2, 1, 2))).facts["gpu"] == "Y"


@pytest.mark.parametrize(("status", "count"), [(0, 8), (100, 0), (802, None)])
def test_gpus_are_counted_by_the_driver(status, count, monkeypatch):
    class Driver:
        def cuInit(self, flags):
            return status

        def cuDeviceGetCount(self, found):
            found._obj.value = 8
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda library: Driver())
    if count is None:
        (found,) = gpus.look(vars(alone)).findings
        assert (found.level, found.text) == (FAILURE, "CUDA's driver cannot count the GPUs (error 802)")
        assert "nvidia-fabricmanager" in found.remedy
    else:
        assert visible() == count


def test_the_loaded_nccl_tells_its_version(tmp_path):
    source = "int ncclGetVersion(int* version) { *version = 22907; return 0; }"
    library = tmp_path / "libnccl.so.2"
    compiling = ["cc", "-shared", "-fPIC", "-xc", "-", "-Wl,-soname,libnccl.so.2", "-o", library]
    subprocess.run(compiling, input=source, text=True, check=True)
    program = "import ctypes, sys; from hvd_imagenet.doctor.collective import nccl; "
    program += "before = nccl(); loaded = ctypes.CDLL(sys.argv[1]); print(before, nccl())"
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=True)
    assert done.stdout == "None 2.29.7\n"


def test_ports_of_infiniband_are_counted_by_their_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "INFINIBAND", tmp_path)
    assert limits.active_ports() == "none"
    for device, (state, rate) in enumerate(
        [("4: ACTIVE", "400"), ("4: ACTIVE", "400"), ("4: ACTIVE", "25"), ("3: ARMED", "400"), ("1: DOWN", "10")]
    ):
        port = tmp_path / f"mlx5_{device}" / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "rate").write_text(f"{rate} Gb/sec\n")
    assert limits.active_ports() == "1 x 25 Gb/sec, 2 x 400 Gb/sec"


def test_the_kernel_and_the_gpu_driver_are_among_the_versions(tmp_path, monkeypatch):
    assert packages.look(vars(alone)).facts["drivers"] == {"GPU driver": "none"}
    (tmp_path / "version").write_text("580.65.06\n")
    monkeypatch.setattr(packages, "DRIVER", tmp_path / "version")
    found = packages.look(vars(alone))
    assert found.facts["drivers"] == {"GPU driver": "580.65.06"}
    assert f"Linux {os.uname().release}, GPU driver 580.65.06" in found.findings[0].text


def job_lines(hosts, facts, clocks=None):
    return [(found.level, found.check, found.text) for found in compared(hosts, facts, clocks)]


@pytest.mark.parametrize(
    ("fact", "name", "level", "check"),
    [
        ("versions", "hvd-imagenet", FAILURE, "versions"),
        ("loaded", "NCCL", FAILURE, "versions"),
        ("mpi", "MPI's library", WARNING, "MPI"),
        ("drivers", "GPU driver", WARNING, "GPU"),
        ("fabric", "InfiniBand", WARNING, "interfaces"),
        ("kernel", None, None, None),
    ],
)
def test_hosts_that_differ_are_named(fact, name, level, check):
    """Of workers that do not tell, as those that are not the first of their host, nothing is said."""
    first, other = ({fact: {name: number} if name else number} for number in ("1", "2"))
    text = f"not the same everywhere: {name}: 1 on a (worker 0), 2 on b (worker 2)"
    assert job_lines(["a", "a", "b"], [first, {}, other]) == ([(level, check, text)] if name else [])
    assert job_lines(["a", "a", "b"], [first, {}, first]) == []


def test_the_slowest_reader_is_named():
    facts = [{"reading": {"images_per_second": speed, "bytes_per_second": 1e6}} for speed in (300.0, 100.0)]
    text = "read in random order: 400 images/s, 2.0 MB/s over all; slowest worker 1 on b, 100 images/s"
    assert job_lines(["a", "b"], facts) == [(OK, "data", text)]


def test_two_workers_on_one_gpu_are_named():
    assert job_lines(["a", "a"], [{"gpu": "X"}, {"gpu": "X"}])[-1] == (
        FAILURE,
        "GPU",
        "workers 0 and 1 on a share GPU X",
    )
    assert job_lines(["a", "b"], [{"gpu": "X"}, {"gpu": "X"}]) == []
    assert "worker 1 on b has no GPU" in job_lines(["a", "b"], [{"gpu": "X"}, {"gpu": None}])[-1][2]


def test_a_missing_worker_is_named():
    ((level, check, text),) = job_lines(["a", None], [{}, {}])
    assert (level, check) == (FAILURE, "workers")
    assert text.startswith("worker 1 is not heard of")


@pytest.mark.parametrize(
    ("clocks", "level"), [([0.0, 1.0], OK), ([0.0, -1.1], WARNING), ([0.0, 60.0], WARNING), ([0.0, 60.1], FAILURE)]
)
def test_clocks_apart_are_named(clocks, level):
    (found,) = job_lines(["a", "b"], [{}, {}], clocks)
    assert found[:2] == (level, "clocks")
    if level != OK:
        assert ("a is 1.1 s ahead of b" if clocks[1] < 0 else "s ahead of a") in found[2]


def together(*parts):
    """Run functions at the same time; what they return."""
    results = [None] * len(parts)

    def run(number):
        results[number] = parts[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def circle(size):
    """The meetings of so many workers."""
    server, address = listen()
    first = [lambda: meeting.open_to(address, server, size, 20)]
    return together(*first, *(lambda rank=rank: meeting.join(address, rank, size, 20) for rank in range(1, size)))


def test_all_learn_what_each_says():
    meetings = circle(3)
    said = together(*(lambda one=one: one.gather(f"{one.rank}" * 100_000, 10) for one in meetings))
    assert said == [[f"{rank}" * 100_000 for rank in range(3)]] * 3
    for one in meetings:
        one.close()


def test_a_silent_worker_keeps_nobody_waiting_for_ever():
    meetings = circle(3)
    begun = time.monotonic()
    said = together(lambda: meetings[0].gather("a", 1), lambda: meetings[2].gather("c", 1))
    assert said == [["a", None, "c"]] * 2
    assert together(lambda: meetings[0].gather("a", 1), lambda: meetings[2].gather("c", 1)) == [["a", None, "c"]] * 2
    assert time.monotonic() - begun < 5
    meetings[0].close()
    with pytest.raises(meeting.MeetingError, match="worker 0 is not heard of any more"):
        meetings[2].gather("c", 1)


def test_strangers_are_not_let_in():
    server, address = listen()
    with socket.create_connection(("127.0.0.1", address.port)) as stranger:
        stranger.sendall(b'{"token": "guessed", "rank": 1}\n')
        assert meeting.admit(server, address.token, time.monotonic() + 5) is None
    server.close()


def test_a_clock_ahead_is_seen(monkeypatch):
    meetings = circle(2)
    real = time.time
    mine = threading.local()
    monkeypatch.setattr(meeting.time, "time", lambda: real() + getattr(mine, "ahead", 0))

    def second():
        mine.ahead = 100
        return meetings[1].clocks()

    first, other = together(meetings[0].clocks, second)
    assert first == other
    assert first[0] == 0
    assert abs(first[1] - 100) < 1


def test_a_stranger_does_not_end_a_measurement(monkeypatch):
    monkeypatch.setattr(network, "WARM_UP_SECONDS", 0.1)
    monkeypatch.setattr(network, "SECONDS", 0.3)
    server, address = listen()
    with socket.create_connection(("127.0.0.1", address.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        there = {"address": vars(address), "interfaces": {host: "eth7" for host in address.hosts}}
        _, link = together(lambda: network.receive(server, address, 10), lambda: network._sent(1, 0, there))
    server.close()
    assert link.mbits and (link.address, link.interface) == (address.hosts[0], "eth7")


def test_one_who_dawdles_keeps_no_worker_out(monkeypatch):
    monkeypatch.setattr(meeting, "HELLO_SECONDS", 0.5)
    server, address = listen()
    with socket.create_connection(("127.0.0.1", address.port)) as stranger:
        dawdling = threading.Event()

        def drip():
            with suppress(OSError):
                while not dawdling.wait(0.2):
                    stranger.sendall(b"x")

        begun = time.monotonic()
        threading.Thread(target=drip).start()
        assert meeting.admit(server, address.token, time.monotonic() + 20) is None
        assert time.monotonic() - begun < 5
        dawdling.set()
    server.close()


def test_a_worker_that_does_not_tell_its_time_keeps_no_other_from_it(monkeypatch):
    monkeypatch.setattr(meeting, "RELAY_SECONDS", 1)
    monkeypatch.setattr(meeting, "PING_SECONDS", 1.5)
    meetings = circle(3)
    first, other = together(meetings[0].clocks, meetings[2].clocks)
    assert first == other and first[:2] == [0, None] and abs(first[2]) < 1
    assert meetings[1].own_address() is None  # all are on this host
    for one in meetings:
        one.close()


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_each_meets_each_once_and_one_at_a_time(count):
    rounds = network.rounds(count)
    pairs = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
    assert all(len({place for pair in pairs for place in pair}) == 2 * len(pairs) for pairs in rounds)


def test_the_slowest_link_is_named():
    links = [network.Measured(0, 1, 900.0, 1.0), network.Measured(1, 0, 400.0, 2.0), network.Measured(2, 0, None, None)]
    links[1] = replace(links[1], address="10.1.0.1", interface="ib0")
    links[2] = replace(links[2], address="10.1.0.1, 10.2.0.1")
    links[0] = replace(links[0], address="10.3.0.2", interface="eth0")
    lost, slow = network.judged(links, ["a", "b", "c"])
    assert (lost.level, lost.text) == (FAILURE, "c to a: no connection to 10.1.0.1, 10.2.0.1")
    assert slow.level == OK  # 400 is more than half of 650
    assert slow.text.startswith(
        "TCP, 2 links over eth0, ib0: 650 Mbit/s (median); slowest b to a at 10.1.0.1, 400 Mbit/s;"
    )
    assert slow.text.endswith("; longest round trip 2.00 ms, b to a")
    assert network.judged(links[:1], ["a", "a"])[0].text.startswith("TCP, 1 link inside the host: ")
    (slow,) = network.judged([*links[:1] * 2, network.Measured(1, 0, 400.0, 2.0)], ["a", "b", "c"])
    assert slow.level == WARNING


def test_many_hosts_without_a_fault_are_not_all_shown():
    launch, console = Launch("mpirun", MPI, 0, 12, 0, 1), Console(width=120, record=True, file=io.StringIO())
    hosts = [f"node{number}" for number in range(12)]
    findings = [[Finding(OK, "interfaces", f"10.0.0.{number}")] for number in range(12)]
    findings[11].append(Finding(FAILURE, "GPU", "gone", "restart"))
    Report.of(launch, hosts, findings, [], [{}] * 12).show(console)
    text = console.export_text()
    assert "all ok on 3 more" in text
    assert ("10.0.0.7 " in text, "10.0.0.8 " in text, "10.0.0.11 " in text) == (True, False, True)
    assert "gone" in text and "→ restart" in text and "1 failure(s), 0 warning(s), 12 ok" in text


def test_what_many_have_alike_is_one_line():
    good, own = Finding(OK, "disk", "much"), Finding(FAILURE, "GPU", "gone", "restart")
    launch = Launch("mpirun", MPI, 0, 3, 0, 2)
    report = Report.of(launch, ["a", "a", "b"], [[good], [good, own], [good]], [], [{}, {}, {}])
    assert [(line.finding, line.ranks) for line in report.lines] == [(good, (0, 1, 2)), (own, (1,))]
    assert [report._place(line) for line in report.lines] == ["the job", "a, worker 1"]
    assert report.failed() == ["GPU"]


def test_an_error_is_parted_from_its_remedy():
    assert of_error("data", "x: no such folder; give one") == Finding(FAILURE, "data", "x: no such folder", "give one")
