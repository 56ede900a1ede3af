"""A packing that was cut short, changed or is going on elsewhere: nothing is lost, and nothing mixed."""

import fcntl
import os
import shutil
import subprocess
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
from data_sets import SMALL, Here, encoded, files_of, json_lines, packed_folder, picture

from hvd_imagenet.data.pack import Options, _require_few_rejects, pack
from hvd_imagenet.data.packing import workplace
from hvd_imagenet.data.packing.shards import ShardReport
from hvd_imagenet.data.sources.folder import ImageFolder
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError, SettingsError


class Interrupted(Here):
    """Does so many tasks, and then no more."""

    def __init__(self, tasks: int):
        self._left = tasks

    def submit(self, function, /, *arguments, **named):
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        return super().submit(function, *arguments, **named)


def test_what_was_begun_is_gone_on_with(image_folder, tmp_path):
    expected = files_of(packed_folder(image_folder, tmp_path / "at-once", shard_bytes=SMALL))
    options = Options(shard_bytes=SMALL)
    for tasks in (0, 3, 2):
        with pytest.raises(KeyboardInterrupt):
            pack(ImageFolder(image_folder), tmp_path / "packed", Interrupted(tasks), options)
        with pytest.raises(DataError, match="is not packed to its end"):
            open_store(tmp_path / "packed", "train")
    shards = sorted((tmp_path / "packed").rglob("*.tar"))
    assert len(shards) == 5  # those of one job are kept by the next
    before = [shard.stat().st_mtime_ns for shard in shards]
    os.truncate(shards[2], 512)  # by hand, or a disk that lies
    shards[1].with_name("shard-000009.tar.host-1.partial").write_text("half")
    pack(ImageFolder(image_folder), tmp_path / "packed", Here(), options)
    assert files_of(tmp_path / "packed") == expected
    assert [a == b.stat().st_mtime_ns for a, b in zip(before, shards, strict=True)] == [True, True, False, True, True]


def test_a_finished_set_is_left_as_it_is(image_folder, tmp_path):
    packed = packed_folder(image_folder, tmp_path / "packed")
    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    packed_folder(image_folder, packed)
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before
    with pytest.raises(SettingsError, match="is another data set, or packed with other options"):
        packed_folder(image_folder, packed, limit=20)


def test_going_on_needs_the_same_source_and_options(own_images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder(own_images), tmp_path / "packed", Interrupted(1), Options(shard_bytes=SMALL))
    with pytest.raises(SettingsError, match="was begun with another source or other options, or"):
        packed_folder(own_images, tmp_path / "packed")
    next(own_images.glob("val/class1/*")).unlink()
    with pytest.raises(SettingsError, match="was begun with another source or other options"):
        packed_folder(own_images, tmp_path / "packed", shard_bytes=SMALL)


def test_a_source_that_has_changed_since_is_not_gone_on_with(own_images, tmp_path):
    (image,) = own_images.glob("train/class0/00000.jpg")
    good = image.read_bytes()
    image.write_bytes(b"x" * len(good))
    with pytest.raises(DataError, match="00000.jpg: not an image"):
        packed_folder(own_images, tmp_path / "packed")
    image.write_bytes(good)
    os.utime(image, ns=(0, 1))
    with pytest.raises(SettingsError, match="or the source has changed since; give the same, or remove it"):
        packed_folder(own_images, tmp_path / "packed")
    expected = packed_folder(own_images, tmp_path / "again")
    os.utime(image, ns=(0, 2))
    assert files_of(packed_folder(own_images, tmp_path / "later")) == files_of(expected)
    packed_folder(own_images, expected)  # a finished set does not mind


def test_the_plan_is_written_under_the_lock(tmp_path, monkeypatch):
    first, second = (workplace.Workplace(tmp_path / "packed", {"of": name}, "") for name in "ab")
    write, claimed = workplace.write_whole, first.claimed()

    def meanwhile(path, data):
        monkeypatch.setattr(workplace, "write_whole", write)
        assert claimed.__enter__()  # as the other is about to write
        write(path, data)

    monkeypatch.setattr(workplace, "write_whole", meanwhile)
    with pytest.raises(SettingsError, match="is being packed by another process"), second.claimed():
        pytest.fail("two have it")


def test_a_set_finished_by_another_meanwhile_is_left_as_it_is(image_folder, tmp_path):
    packed = packed_folder(image_folder, tmp_path / "packed")
    before = files_of(packed)
    (packed / ".packing").mkdir()  # killed between its last two acts
    (packed / ".packing" / "plan.json").touch()
    packed_folder(image_folder, packed)
    assert files_of(packed) == before


def test_damaged_notes(image_folder, tmp_path):
    expected = files_of(packed_folder(image_folder, tmp_path / "at-once", shard_bytes=SMALL))
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder(image_folder), tmp_path / "packed", Interrupted(2), Options(shard_bytes=SMALL))
    plan = tmp_path / "packed" / ".packing" / "plan.json"
    whole = plan.read_bytes()
    plan.write_bytes(b"")
    with pytest.raises(SettingsError, match=rf"plan.json: unreadable; remove {tmp_path / 'packed'} and begin again"):
        packed_folder(image_folder, tmp_path / "packed", shard_bytes=SMALL)
    plan.write_bytes(whole)
    (plan.parent / "train-000000.json").write_bytes(b"")
    packed_folder(image_folder, tmp_path / "packed", shard_bytes=SMALL)
    assert files_of(tmp_path / "packed") == expected


@pytest.mark.parametrize(
    ("bad", "of", "share", "said"),
    [(29, 100, "0.29", None), (29, 100, "0.2899", "--max-rejects 29.00%"), (3, 1, "0", "none of the images of val"),
     (1, 16, "0.06", "--max-rejects 6.25%"), (2, 30_000, "0", "--max-rejects 0.01%")],
)  # fmt: skip
def test_shares_of_rejects_are_exact(bad, of, share, said, tmp_path):
    report = ShardReport(rejected=[{"name": "x", "reason": "empty"}] * bad)
    report.rows = np.zeros((max(0, of - bad), 5))
    tasks = {"val": [SimpleNamespace(items=[None] * of)]}
    if said is None:
        _require_few_rejects(tmp_path, tasks, {"val": [report]}, Decimal(share))
        return
    with pytest.raises(DataError, match=said):
        _require_few_rejects(tmp_path, tasks, {"val": [report]}, Decimal(share))


def test_two_cannot_pack_into_one_folder(image_folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder(image_folder), tmp_path / "packed", Interrupted(0))
    with (tmp_path / "packed" / ".packing" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="is being packed by another process"):
            packed_folder(image_folder, tmp_path / "packed")
    packed_folder(image_folder, tmp_path / "packed")


def test_a_file_that_is_gone_when_its_turn_comes(own_images, tmp_path):
    source = ImageFolder(own_images)
    gone = next(own_images.glob("val/class1/*"))
    gone.unlink()
    with pytest.raises(DataError, match=rf"{gone}: cannot be read \(No such file"):
        pack(source, tmp_path / "packed", Here())


def test_too_little_space_is_said_before_any_work(image_folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"1.0 kB are free, \d\d.\d kB are needed; free some space"):
        packed_folder(image_folder, tmp_path / "packed")
    assert not list(tmp_path.rglob("*.tar"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up(image_folder, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], check=True)
    try:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: _Plenty)
        with pytest.raises(DataError, match=r"packed: cannot be written \(No space left on device\); free some space"):
            packed_folder(image_folder, disk / "packed", shard_bytes=SMALL)
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        packed_folder(image_folder, disk / "packed", shard_bytes=SMALL)
        expected = packed_folder(image_folder, tmp_path / "packed", shard_bytes=SMALL)
        assert files_of(disk / "packed") == files_of(expected)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class _Plenty:
    free = 10**12


def test_names_of_every_kind(tmp_path):
    names = [
        "a b.jpg",
        'it\'s "good".jpg',
        "two\nlines.jpg",
        "köln-東京.jpg",
        "-rf.jpg",
        "$(x);`y`.jpg",
        "%s{0}[b].jpg",
    ]
    for split in ("train", "val"):
        for label, name in enumerate(["a class", "Ümläüt\n\"'"]):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number, file in enumerate([*names, os.fsdecode(b"\xff\xfe.jpg")]):
                data = encoded(picture(seed=10 * label + number))
                (tmp_path / "images" / split / name / file).write_bytes(data)
    (tmp_path / "images" / "train" / "a class" / "bad\n\\ü.jpg").write_bytes(b"")
    packed = packed_folder(tmp_path / "images", tmp_path / "packed", 0.1)
    store = open_store(packed, "val")
    assert len(store) == 16 and store.classes == ["a class", "Ümläüt\n\"'"]
    (rejected,) = json_lines(packed / "rejects.jsonl")
    assert rejected["name"].endswith("bad\n\\ü.jpg")
