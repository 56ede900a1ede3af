"""Which cores and which GPU a worker keeps to: on hosts made by hand, and on this one."""

import ctypes
import os
import struct
import uuid
from pathlib import Path

import pytest
from steps import made, micro_batches, plan

from hvd_imagenet import gpu as gpus
from hvd_imagenet.cores import near_device, neighbours_first
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.gpu import Gpu, identify
from hvd_imagenet.host import Place, own_cores

BOTH = pytest.mark.parametrize("framework", ["torch", "keras"])
TWO = pytest.mark.parametrize("workers", [2])
ALL = frozenset(range(8))
NODES = frozenset(range(4)), frozenset(range(4, 8))


@pytest.fixture
def two_nodes(tmp_path):
    """A host of 2 nodes with 2 cores each, of 2 threads each: the even numbers on the first; a GPU on the second."""
    nodes = {"node0": "0,2,4,6", "node1": "1,3,5,7"}
    for node, listed in nodes.items():
        write(tmp_path / "devices/system/node" / node / "cpulist", listed)
    for thread in range(8):
        siblings = f"{thread % 4},{thread % 4 + 4}"
        write(tmp_path / f"devices/system/cpu/cpu{thread}/topology/thread_siblings_list", siblings)
    write(tmp_path / "bus/pci/devices/0000:3b:00.0/local_cpulist", nodes["node1"])
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")


def test_neighbours_stand_together(two_nodes):
    assert neighbours_first(ALL, two_nodes) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert neighbours_first(frozenset([7, 5, 4, 2]), two_nodes) == [4, 2, 5, 7]


def test_where_the_system_tells_nothing_cores_are_in_their_own_order(tmp_path):
    assert neighbours_first(frozenset([10, 9, 2]), tmp_path) == [2, 9, 10]
    assert near_device("0000:3b:00.0", tmp_path) == frozenset()


def test_lists_of_cores_have_ranges(tmp_path):
    write(tmp_path / "bus/pci/devices/0000:3b:00.0/local_cpulist", "0-2,8,10-11")
    assert near_device("0000:3b:00.0", tmp_path) == {0, 1, 2, 8, 10, 11}


def test_the_cores_near_a_gpu(two_nodes):
    assert near_device("0000:3B:00.0", two_nodes) == {1, 3, 5, 7}


def shares(*places):
    return [sorted(own_cores(list(places), rank, sorted)) for rank in range(len(places))]


def on(cores, near=(), host="a"):
    return Place(host, frozenset(cores), None, frozenset(near))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([on(ALL)], [[*range(8)]]),
        ([on(ALL)] * 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ([on(ALL)] * 3, [[0, 1], [2, 3, 4], [5, 6, 7]]),
        ([on([3, 5])] * 2, [[3], [5]]),
        ([on([3, 5])] * 3, [[3, 5]] * 3),  # more workers than cores
        ([on(NODES[0]), on(NODES[1])], [[0, 1, 2, 3], [4, 5, 6, 7]]),  # bound by the launcher, each
        ([on(NODES[0]), on(NODES[1])] * 2, [[0, 1], [4, 5], [2, 3], [6, 7]]),  # or in pairs
        ([on(ALL), on(ALL, host="b")] * 2, [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2),
    ],
    ids=["one", "two", "uneven", "cgroup", "many", "bound", "pairs", "hosts"],
)
def test_cores_left_to_several_are_shared_out(places, expected):
    assert shares(*places) == expected


def test_a_share_is_near_the_workers_gpu():
    one, two = on(ALL, NODES[1]), on(ALL, NODES[0])
    assert shares(one, two, one) == [[4, 5], [0, 1, 2, 3], [6, 7]]
    assert shares(on(NODES[0], NODES[1])) == [[0, 1, 2, 3]]  # its launcher knows better
    assert shares(*[on(ALL, [0])] * 2) == [[*range(8)]] * 2  # too few near it for both


@BOTH
@TWO
def test_workers_keep_to_cores_of_their_own(framework, workers):
    """All of their threads; and a second backend in the same process leaves them where they are."""
    before = made(framework).gather(os.sched_getaffinity(0))
    for backend in (made(framework), made(framework)):
        backend.train_step(plan(2), list(micro_batches(1)))
        one, other = backend.gather(os.sched_getaffinity(0))
        assert {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")} == {
            frozenset((one, other)[backend.rank])
        }
        assert [one, other] == before
        assert not one & other or one == other  # on a machine of one core
        assert backend.cores == len(one)


@BOTH
@TWO
def test_two_workers_on_one_gpu_are_refused(framework, workers, monkeypatch):
    """As where a launcher starts two of them beside one GPU; each worker is told, before it does anything there."""
    made(framework)
    monkeypatch.setattr(f"hvd_imagenet.{framework}.backend.choose_device", lambda local_rank: (0, Gpu("GPU-X")))
    with pytest.raises(SettingsError, match="workers 0 and 1 on .* share GPU GPU-X; start one worker per GPU"):
        made(framework)


@BOTH
@pytest.mark.parametrize(("seen", "local_rank", "chosen"), [(4, 2, 2), (1, 2, 0), (2, 3, 1)])
def test_a_gpu_by_local_rank_also_where_a_task_sees_only_its_own(framework, seen, local_rank, chosen, monkeypatch):
    taken = []
    if framework == "torch":
        import torch

        from hvd_imagenet.torch import device

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    else:
        import tensorflow as tf

        from hvd_imagenet.keras import device

        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: range(seen))
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpu, kind: taken.append(gpu))
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, grows: None)
    monkeypatch.setattr(device, "identify", lambda device_id: Gpu(f"GPU-{device_id}"))
    assert device.choose_device(local_rank) == (chosen, Gpu(f"GPU-{chosen}"))
    assert taken == [chosen]


class Driver:
    """Of CUDA, with one GPU: number 2, at 0000:3B:00.0."""

    NAME = uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = 7
        return 0 if number == 2 else 101

    def cuDeviceGetUuid_v2(self, name, device):
        name[:] = struct.unpack("16b", self.NAME.bytes)
        return 0 if device.value == 7 else 101

    def cuDeviceGetPCIBusId(self, address, size, device):
        address.value = b"0000:3B:00.0"[: size - 1]
        return 0


def test_a_gpu_is_known_by_what_the_driver_calls_it(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda library: Driver())
    monkeypatch.setattr(gpus, "near_device", {"0000:3B:00.0": frozenset([2, 3])}.get)
    assert identify(2) == Gpu("12345678-9abc-def0-1234-56789abcdef0", frozenset([2, 3]))
    with pytest.raises(RuntimeError, match=r"cannot tell the name of GPU 1 \(error 101\)"):
        identify(1)
