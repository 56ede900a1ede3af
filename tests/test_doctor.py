"""The doctor: faults that are planted, each found; nothing found where nothing is wrong."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import horovod
import pytest
from conftest import LAUNCH_SECONDS
from doctors import DOCTOR, alone, examined, lines, may_mount
from jobs import gloo, gone, mpi, outside, until

from hvd_imagenet.doctor import guard
from hvd_imagenet.doctor.child import Child, ChildError
from hvd_imagenet.doctor.findings import FAILURE, OK, WARNING

HOST = socket.gethostname()


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
