"""Packing as people do it: on many processes, killed and begun again, real photographs with rubbish among them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from bad_images import BAD, ODD
from data_sets import encoded, files_of, picture, tar_of
from imagenet_sets import samples
from jobs import PYTHON, mpi, outside

from hvd_imagenet import cli, data_cli
from hvd_imagenet.data.packing.workers import executor
from hvd_imagenet.data.sources.imagenet import KAGGLE, TRAIN, VAL

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample.tar"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """250 photographs in as many classes, for training and for validation; made ones where the real ones are not."""
    root = tmp_path_factory.mktemp("photos") / "set"
    if PHOTOS.exists():
        with tarfile.open(PHOTOS) as tar:
            tar.extractall(root / "train", filter="data")
    else:
        for number in range(250):
            (root / "train" / f"n{number:08d}").mkdir(parents=True)
            data = encoded(picture(375, 500, number))
            (root / "train" / f"n{number:08d}" / f"n{number:08d}_{number}.JPEG").write_bytes(data)
    shutil.copytree(root / "train", root / "val")
    return root


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory):
    """What packing them in one go, by one process, leaves."""
    folder = tmp_path_factory.mktemp("expected") / "packed"
    done = packing(photos, folder, "--workers", "1")
    assert done.wait() == 0
    return files_of(folder)


def packing(source, destination, *options, launcher=()):
    command = [*launcher, *PYTHON, "data", "pack", source, destination, "--shard-size", "1", *options]
    return subprocess.Popen(
        list(map(str, command)), env=outside(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def output(process):
    return process.communicate(timeout=90)[0]


def wait_for(process, folder, pattern, count=1):
    """Until so many files are there."""
    while process.poll() is None and len(list(folder.glob(pattern))) < count:
        time.sleep(0.01)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_killed_at_random_moments(photos, expected, tmp_path, kills):
    destination, chance = tmp_path / "packed", random.Random(kills)
    shards = 0
    for _ in range(kills):
        process = packing(photos, destination, "--workers", "2")
        wait_for(process, destination, ".packing/plan.json")
        wait_for(process, destination, "*/*.tar", shards + chance.choice([0, 1, 2]))
        time.sleep(chance.uniform(0, 0.3))
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        output(process)
        assert process.returncode == -signal.SIGKILL, "was done before it could be killed"
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive  # none goes on writing on its own
        shards = len(list(destination.glob("*/*.tar")))
    print(f"{kills} kills, {shards} of {sum('.tar' in file for file in expected)} shards written between them")
    done = packing(photos, destination)
    assert "250 train, 250 val images in 250 classes" in output(done) and done.returncode == 0
    assert files_of(destination) == expected


def test_under_mpirun(photos, expected, tmp_path):
    done = packing(photos, tmp_path / "packed", launcher=mpi(3))
    assert "250 train, 250 val images in 250 classes" in output(done) and done.returncode == 0
    assert files_of(tmp_path / "packed") == expected


def test_errors_under_mpirun(tmp_path):
    done = packing(tmp_path / "nothing", tmp_path / "packed", launcher=mpi(2))
    assert "nothing: no such folder" in output(done) and done.returncode == 3
    assert not (tmp_path / "packed").exists()


def test_processes_are_not_to_be_counted_twice(monkeypatch, capfd):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert cli.main(["data", "verify", "anything", "--workers", "2"]) == 2
    assert "--workers: 2; under mpirun its processes are the workers: leave it out" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--limit", "0"], ["--workers", "two"], ["--shard-size", "-1"], ["--shorter-side", "0"], ["--max-rejects", "2"],
     ["--max-rejects", "some"], ["--max-rejects", "nan"], ["--shorter-side", "9", "--quality", "101"],
     ["--quality", "90"]],
)  # fmt: skip
def test_options_that_make_no_sense(options, tmp_path, capfd):
    assert cli.main(["data", "pack", str(tmp_path), str(tmp_path / "packed"), *options]) == 2
    assert options[-2].lstrip("-") in capfd.readouterr().err


@pytest.mark.parametrize(("text", "share"), [("0.1%", 0.001), ("0.5", 0.5), ("100%", 1), ("0", 0), ("1", 1)])
def test_shares(text, share):
    assert data_cli._share(text) == Decimal(str(share))


def test_interrupted(photos, tmp_path):
    process = packing(photos, tmp_path / "packed", "--workers", "1")
    wait_for(process, tmp_path / "packed", "train/*.partial")
    process.send_signal(signal.SIGINT)
    said = output(process)
    assert process.returncode == 130
    told = f"{tmp_path / 'packed'}: is not packed to its end; run the same command again to go on"
    assert said.splitlines() == [told, "hvd-imagenet: ended by SIGINT"]


def test_workers_end_at_once_when_their_work_is_not_wanted_any_more():
    with pytest.raises(KeyboardInterrupt), executor(1) as pool:
        future = pool.submit(time.sleep, 60)
        while not future.running():
            time.sleep(0.01)
        time.sleep(1)  # it has begun
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("below", ["", "packed", "train/class0/packed"])
def test_the_destination_cannot_be_in_the_source(below, image_folder, capfd):
    assert cli.main(["data", "pack", str(image_folder), str(image_folder / below)]) == 2
    assert f"lies in {image_folder}, which is read; name another folder" in capfd.readouterr().err
    assert cli.main(["data", "pack", str(image_folder / "nothing"), str(image_folder / "none")]) == 3


def test_fashion_mnist_under_mpirun(tmp_path):
    command = [*mpi(2), *PYTHON, "data", "fashion-mnist", tmp_path / "packed", "--idx-dir", tmp_path]
    done = subprocess.run(list(map(str, command)), env=outside(), capture_output=True, text=True, timeout=90)
    assert "ubyte.gz: not found" in done.stderr and "Traceback" not in done.stderr and done.returncode == 3


def test_a_process_that_the_system_kills(photos, tmp_path):
    process = packing(photos, tmp_path / "packed", "--workers", "1")
    wait_for(process, tmp_path / "packed", "train/*.partial")
    (worker,) = (child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline()))
    worker.kill()
    assert "a process was killed while it worked" in output(process) and process.returncode == 3


def test_real_photographs_with_rubbish_among_them(photos, tmp_path):
    """All that cannot be used is left out, each with its reason, all else is packed, and training runs over it."""
    source = shutil.copytree(photos, tmp_path / "set")
    folder = next((source / "train").iterdir())
    for name, (data, _) in {**BAD, **ODD}.items():
        (folder / name).write_bytes(data)
    assert len(BAD) >= 25
    done = packing(source, tmp_path / "packed", "--max-rejects", "10%")
    said = output(done)
    assert done.returncode == 0, said
    rejected = [json.loads(line) for line in (tmp_path / "packed" / "rejects.jsonl").read_text().splitlines()]
    assert {Path(line["name"]).name: line["reason"] for line in rejected}.keys() == BAD.keys()
    assert all(re.search(BAD[Path(line["name"]).name][1], line["reason"]) for line in rejected)
    assert f"{250 + len(ODD)} train, 250 val images in 250 classes" in said
    settings = {
        "data.path": tmp_path / "packed", "model.name": "resnet8", "model.classes": 250, "data.train_samples": "null",
        "data.image_size": 32, "batch.global_size": 32, "batch.micro_size": 16, "lr.reference_batch": 32, "epochs": 1,
        "lr.schedule.kind": "cosine", "lr.warmup.epochs": 0, "run": tmp_path / "run",
    }  # fmt: skip
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    ran = subprocess.run([*PYTHON, "train", *arguments], env=outside(), capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["samples_seen"] >= 250 + len(ODD)


def test_photographs_in_archives(photos, expected, tmp_path):
    """Archives as ILSVRC2012 has them, of the photographs: the same samples as the folders."""
    folder = tmp_path / "archives"
    folder.mkdir()
    classes = sorted(path.name for path in (photos / "train").iterdir())
    inner = {f"{name}.tar": tar_of(named(photos / "train" / name)) for name in classes}
    (folder / TRAIN).write_bytes(tar_of(inner))
    images, truth = {}, ["ImageId,PredictionString"]
    for number, name in enumerate(random.Random(0).sample(classes, len(classes)), 1):
        stem = f"ILSVRC2012_val_{number:08d}"
        images[f"{stem}.JPEG"] = next(iter(named(photos / "val" / name).values()))
        truth.append(f"{stem},{name} 1 2 3 4")
    (folder / VAL).write_bytes(tar_of(images))
    (folder / KAGGLE).write_text("\n".join(truth))
    done = packing(folder, tmp_path / "packed")
    assert "250 train, 250 val images in 250 classes" in output(done) and done.returncode == 0
    for split in ("train", "val"):
        known = {next(iter(named(photos / split / name).values())): name for name in classes}
        assert [known[data] for _, data in samples(tmp_path / "packed", split)] == [
            name for name, _ in samples(tmp_path / "packed", split)
        ]
    shards = {file: data for file, data in files_of(tmp_path / "packed").items() if "train/shard" in file}
    assert shards == {file: data for file, data in expected.items() if "train/shard" in file}


def named(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take root's rights away")
def test_no_permission(photos, tmp_path):
    without_rights = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    destination = tmp_path / "packed"
    destination.mkdir(mode=0o500)
    done = packing(photos, destination, "--workers", "1", launcher=without_rights)
    assert "cannot be made (Permission denied); name another folder" in output(done) and done.returncode == 2
    source = shutil.copytree(photos, tmp_path / "set")
    image = next(source.glob("train/*/*"))
    image.chmod(0)
    done = packing(source, tmp_path / "other", "--workers", "1", launcher=without_rights)
    assert f"{image}: cannot be read (Permission denied)" in output(done) and done.returncode == 3
    image.parent.chmod(0)
    done = packing(source, tmp_path / "other", "--workers", "1", launcher=without_rights)
    assert f"{image.parent}: cannot be read or written (Permission denied)" in output(done) and done.returncode == 3
    image.parent.chmod(0o700)
