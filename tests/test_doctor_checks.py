"""What the doctor's checks of one host make of names, limits, versions, MPI, GPUs and InfiniBand."""

import ctypes
import json
import os
import socket
import subprocess
import sys

import pytest
from doctors import alone, may_mount

from hvd_imagenet.doctor import gpus, limits, meeting, names, network, packages
from hvd_imagenet.doctor import horovod as horovod_check
from hvd_imagenet.doctor import mpi as mpi_check
from hvd_imagenet.doctor.findings import FAILURE, OK, WARNING, Finding
from hvd_imagenet.doctor.launch import ALONE, GLOO, MPI, Launch, read_launch
from hvd_imagenet.gpu import Gpu, visible

HOST = socket.gethostname()
MPI_NAMES = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"
needs_mounts = pytest.mark.skipif(not may_mount(), reason="mounts need namespaces, and those root")
needs_interface = pytest.mark.skipif(names._reachable() == "ADDRESS", reason="no interface but lo has an address")


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
