"""Packing: the same bytes however it is done, nothing lost when it is cut short, and nothing bad in the set."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import tarfile
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bad_images import BAD, ODD
from data_sets import Here, encoded, files_of, packed_folder, picture

from hvd_imagenet.data.pack import Options, _require_few_rejects, pack
from hvd_imagenet.data.packing import workplace
from hvd_imagenet.data.packing.shards import ShardReport
from hvd_imagenet.data.sources.folder import ImageFolder
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError, SettingsError

SMALL = 5000  # bytes of a shard: about seven images


@pytest.fixture
def folder(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "images", ignore=shutil.ignore_patterns(".hvd_imagenet"))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_packing_twice_gives_the_same_bytes(image_folder, tmp_path):
    first, again = (packed_folder(image_folder, tmp_path / name, shard_bytes=SMALL) for name in ("first", "again"))
    assert files_of(first) == files_of(again)
    assert sorted(path.name for path in first.iterdir()) == [
        "dataset.json",
        "oddities.jsonl",
        "rejects.jsonl",
        "train",
        "val",
    ]


def test_shards_are_cut_where_their_size_is_reached(image_folder, tmp_path):
    packed = packed_folder(image_folder, tmp_path / "packed", shard_bytes=SMALL)
    split = json.loads((packed / "dataset.json").read_text())["splits"]["train"]
    store = open_store(packed, "train")
    ends = np.cumsum(store.shard_samples)
    lengths = store._index.length.astype(int)
    assert len(ends) == len(split["shards"]) > 5 and ends[-1] == 50
    for first, end in zip([0, *ends[:-2]], ends[:-1], strict=True):
        assert lengths[first:end].sum() >= SMALL > lengths[first : end - 1].sum()
    plain = open_store(image_folder, "train")
    assert [bytes(d) for d in store.read(range(50))] == [bytes(d) for d in plain.read(range(50))]
    for shard in split["shards"]:
        assert (packed / shard["name"]).stat().st_size == shard["bytes"]


def test_shards_are_webdataset_tars(image_folder, tmp_path):
    packed = packed_folder(image_folder, tmp_path / "packed")
    with tarfile.open(packed / "train" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        names = [member.name for member in members[:4]]
        assert names == ["00000000.jpg", "00000000.cls", "00000001.jpg", "00000001.cls"]
        assert len(members) == 100
        labels = [int(tar.extractfile(member).read()) for member in members[1::2]]
        images = [tar.extractfile(member).read() for member in members[::2]]
    store = open_store(packed, "train")
    assert labels == store.labels.tolist()
    assert images == [bytes(data) for data in store.read(range(50))]


def test_the_webdataset_package_reads_them(image_folder, tmp_path):
    import webdataset

    packed = packed_folder(image_folder, tmp_path / "packed", shard_bytes=SMALL)
    store = open_store(packed, "train")
    shards = [str(path) for path in sorted((packed / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == [bytes(data) for data in store.read(range(50))]
    assert [int(sample["cls"]) for sample in samples] == store.labels.tolist()


def test_dalis_webdataset_reader_reads_them(image_folder, tmp_path):
    from nvidia.dali import fn, pipeline_def

    packed = packed_folder(image_folder, tmp_path / "packed", shard_bytes=SMALL)
    store = open_store(packed, "train")

    @pipeline_def(batch_size=10, num_threads=1, device_id=None)
    def graph():
        paths = [str(path) for path in sorted((packed / "train").glob("*.tar"))]
        return tuple(fn.readers.webdataset(paths=paths, ext=["jpg", "cls"], missing_component_behavior="error"))

    pipeline = graph()
    images, labels = [], []
    for _ in range(5):
        image, label = pipeline.run()
        images += [np.array(image[i]).tobytes() for i in range(10)]
        labels += [int(np.array(label[i]).tobytes()) for i in range(10)]
    assert images == [bytes(data) for data in store.read(range(50))]
    assert labels == store.labels.tolist()


def test_unusable_images_are_left_out_and_unusual_ones_listed(folder, tmp_path):
    for name, (data, _) in {**BAD, **ODD}.items():
        (folder / "train" / "class0" / name).write_bytes(data)
    packed = packed_folder(folder, tmp_path / "packed", 0.5, shard_bytes=40_000)
    rejects, oddities = lines(packed / "rejects.jsonl"), lines(packed / "oddities.jsonl")
    assert {Path(line["name"]).name for line in rejects} == set(BAD)
    for line in rejects:
        assert (line["split"], line["label"]) == ("train", 0)
        assert re.search(BAD[Path(line["name"]).name][1], line["reason"])
    assert {Path(line["name"]).name for line in oddities} == set(ODD)
    store = open_store(packed, "train")
    assert len(store) == 50 + len(ODD)
    for path in folder.glob("train/*/*"):
        path.unlink() if path.name in BAD else None
    whole = packed_folder(folder, tmp_path / "without")
    assert sorted(map(bytes, store.read(range(len(store))))) == sorted(
        map(bytes, open_store(whole, "train").read(range(len(store))))
    )


@pytest.mark.parametrize(("share", "enough"), [(2 / 75, True), (1.9 / 75, False)])
def test_too_many_rejects_end_it_and_more_may_be_allowed(folder, tmp_path, share, enough):
    for number in range(2):
        (folder / "val" / "class1" / f"zz{number}.jpg").write_bytes(b"no image")
    if not enough:
        said = r"rejects.jsonl: 2 of 75 images cannot be used \(2.67%\), such as .*zz0.jpg: not an image; .* 2.67%"
        with pytest.raises(DataError, match=said):
            packed_folder(folder, tmp_path / "packed", share)
        assert len(lines(tmp_path / "packed" / "rejects.jsonl")) == 2
        with pytest.raises(DataError, match=r"packed: is not packed to its end; run the same command again"):
            open_store(tmp_path / "packed", "val")
        share = 0.0267
    packed_folder(folder, tmp_path / "packed", share)
    assert len(open_store(tmp_path / "packed", "val")) == 23


def test_none_left_of_a_split(folder, tmp_path):
    for path in folder.glob("val/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the images of val can be used"):
        packed_folder(folder, tmp_path / "packed", 1.0)


def test_a_shard_of_which_nothing_is_left(folder, tmp_path):
    for path in sorted(folder.glob("val/class0/*")):
        path.write_bytes(b"no image")
    packed = packed_folder(folder, tmp_path / "packed", 1.0, shard_bytes=30)
    store = open_store(packed, "val")
    assert len(store) == 11 and set(store.labels) == {1} and store.shard_samples.tolist() == [1] * 11
    assert len(list((packed / "val").glob("*.tar"))) == 11
    assert [bytes(d) for d in store.read(range(11))] == [p.read_bytes() for p in sorted(folder.glob("val/class1/*"))]


def test_a_limit_takes_some_of_each_split(image_folder, tmp_path):
    packed = packed_folder(image_folder, tmp_path / "packed", limit=20)
    train, val = open_store(packed, "train"), open_store(packed, "val")
    assert len(train) == len(val) == 20
    assert val.labels.tolist() == sorted(val.labels) and set(val.labels) == set(train.labels) == {0, 1}
    everything = {bytes(data) for data in open_store(image_folder, "val").read(range(23))}
    taken = {bytes(data) for data in val.read(range(20))}
    assert len(taken) == 20 and taken < everything
    assert len(open_store(packed_folder(image_folder, tmp_path / "more", limit=24), "val")) == 23


def test_images_are_stored_smaller(folder, tmp_path):
    (folder / "train" / "class0" / "large.png").write_bytes(encoded(picture(300, 400), "PNG"))
    packed = packed_folder(folder, tmp_path / "packed", shorter_side=22, quality=90)
    store = open_store(packed, "train")
    sizes = {tuple(size) for size in store.sizes(slice(None)).tolist()}
    assert (22, 29) in sizes and min(map(min, sizes)) == 20 and max(min(size) for size in sizes) == 22
    assert all(bytes(data).startswith(b"\xff\xd8") for data in store.read(range(len(store))))


def test_packing_never_touches_what_is_there(image_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(SettingsError, match="exists and is not empty"):
        packed_folder(image_folder, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["a file/packed", "a file", "/proc/packed"])
def test_packing_where_nothing_can_be(image_folder, tmp_path, monkeypatch, below):
    (tmp_path / "a file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"cannot be made|is a file"):
        packed_folder(image_folder, Path(below))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a file"]


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


def test_going_on_needs_the_same_source_and_options(folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack(ImageFolder(folder), tmp_path / "packed", Interrupted(1), Options(shard_bytes=SMALL))
    with pytest.raises(SettingsError, match="was begun with another source or other options, or"):
        packed_folder(folder, tmp_path / "packed")
    next(folder.glob("val/class1/*")).unlink()
    with pytest.raises(SettingsError, match="was begun with another source or other options"):
        packed_folder(folder, tmp_path / "packed", shard_bytes=SMALL)


def test_a_source_that_has_changed_since_is_not_gone_on_with(folder, tmp_path):
    (image,) = folder.glob("train/class0/00000.jpg")
    good = image.read_bytes()
    image.write_bytes(b"x" * len(good))
    with pytest.raises(DataError, match="00000.jpg: not an image"):
        packed_folder(folder, tmp_path / "packed")
    image.write_bytes(good)
    os.utime(image, ns=(0, 1))
    with pytest.raises(SettingsError, match="or the source has changed since; give the same, or remove it"):
        packed_folder(folder, tmp_path / "packed")
    expected = packed_folder(folder, tmp_path / "again")
    os.utime(image, ns=(0, 2))
    assert files_of(packed_folder(folder, tmp_path / "later")) == files_of(expected)
    packed_folder(folder, expected)  # a finished set does not mind


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


def test_a_file_that_is_gone_when_its_turn_comes(folder, tmp_path):
    source = ImageFolder(folder)
    gone = next(folder.glob("val/class1/*"))
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
    (rejected,) = lines(packed / "rejects.jsonl")
    assert rejected["name"].endswith("bad\n\\ü.jpg")
