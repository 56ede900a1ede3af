"""Verifying data sets: what is found in them, and that nothing is changed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from bad_images import BAD, ODD
from data_sets import Here, packed_folder

from hvd_imagenet import cli
from hvd_imagenet.data.store import open_store
from hvd_imagenet.data.verify import Verification
from hvd_imagenet.errors import DataError


@pytest.fixture
def folder(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "images", ignore=shutil.ignore_patterns(".hvd_imagenet"))


@pytest.fixture
def packed(folder, tmp_path):
    return packed_folder(folder, tmp_path / "packed", shard_bytes=5000)


def verified(path):
    """Reports of both splits; nothing may be changed by it."""
    before = {file: os.stat(file).st_mtime_ns for file in path.rglob("*")}
    verification = Verification(path)
    assert verification.counts()["val"] >= 23
    reports = verification.run(Here(), lambda *_: None)
    assert {file: os.stat(file).st_mtime_ns for file in path.rglob("*")} == before
    return reports


def test_good_sets_are_good(folder, packed):
    for path in (folder, packed):
        reports = verified(path)
        assert [(report.rejected, report.odd) for report in reports.values()] == [([], []), ([], [])]


def test_a_folder_with_bad_and_odd_images(folder):
    for name, (data, _) in {**BAD, **ODD}.items():
        (folder / "val" / "class1" / name).write_bytes(data)
    reports = verified(folder)
    assert not reports["train"].rejected and not reports["train"].odd
    assert {Path(line["name"]).name for line in reports["val"].rejected} == set(BAD)
    assert {Path(line["name"]).name for line in reports["val"].odd} == set(ODD)


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 255]))


def test_a_byte_that_flips_in_a_shard(packed):
    store = open_store(packed, "train")
    start, length = (int(column[13]) for column in (store._index.offset, store._index.length))
    shard = packed / store.name(13).partition(",")[0]
    for at in range(start, start + length):  # no single one is sure to matter
        flip(shard, at)
    first, *others = verified(packed)["train"].rejected
    assert first == {"name": str(shard), "label": None, "reason": "is not as it was packed (its checksum is another)"}
    assert [line["name"] for line in others] == [store.name(13)]


def test_a_byte_that_flips_between_the_images(packed):
    flip(packed / "val" / "shard-000000.tar", 130)
    assert [line["reason"][:26] for line in verified(packed)["val"].rejected] == ["is not as it was packed (i"]


def test_a_byte_that_flips_in_the_index(packed):
    file = packed / "val" / "index.npz"
    flip(file, file.read_bytes().index(b"NUMPY") + 135)
    with pytest.raises(DataError, match=r"val/index.npz: is not as it was packed \(its checksum is another\)"):
        verified(packed)


def test_a_class_of_another_name(packed):
    file = packed / "dataset.json"
    file.write_text(file.read_text().replace('"class1"', '"class2"'))
    with pytest.raises(DataError, match=r"dataset.json: its classes are not those of .*index.npz, as it was packed"):
        verified(packed)


def test_what_is_not_packed_to_its_end_is_no_set_of_shards(packed):
    (packed / ".packing").mkdir()
    (packed / "dataset.json").unlink()
    with pytest.raises(DataError, match="packed: is not packed to its end; run the same command again to go on"):
        verified(packed)


def test_names_that_a_terminal_should_not_see(folder, capfd):
    for name in (b"\xff.jpg", b"red\x1b[31m\n.jpg"):
        (folder / "train" / "class0" / os.fsdecode(name)).write_bytes(b"")
    assert cli.main(["data", "verify", str(folder), "--workers", "1"]) == 3
    out, _ = capfd.readouterr()
    assert r"/\udcff.jpg: empty: 0 bytes" in out and r"/red\x1b[31m\n.jpg: empty: 0 bytes" in out


def test_the_command_lists_what_cannot_be_used_and_ends_with_3(folder, tmp_path, capfd):
    (folder / "train" / "class0" / "bad [red].jpg").write_bytes(b"")
    (folder / "train" / "class0" / "grey.jpg").write_bytes(ODD["grey.jpg"][0])
    found = tmp_path / "found.jsonl"
    assert cli.main(["data", "verify", str(folder), "--workers", "1", "-o", str(found)]) == 3
    out, errors = capfd.readouterr()
    assert f"{folder}/train/class0/bad [red].jpg: empty: 0 bytes\n" in out
    assert f"unusual: 1 images (1 grey); see {found}\n" in out
    assert "1 of 75 images cannot be used, as listed above; repair or remove them" in errors
    assert [json.loads(line)["name"][-9:] for line in found.read_text().splitlines()] == ["[red].jpg", "/grey.jpg"]
    (folder / "train" / "class0" / "bad [red].jpg").unlink()
    assert cli.main(["data", "verify", str(folder), "--workers", "1"]) == 0
    assert f"{folder}: all 74 images can be used\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: shutil.rmtree(r), "no such folder"),
        (lambda r: (r / "dataset.json").write_text("{"), "unreadable"),
        (lambda r: (r / "train" / "shard-000001.tar").unlink(), "shard-000001.tar: missing or cut short"),
        (lambda r: np.savez(r / "train" / "index.npz", x=np.zeros(3)), "index.npz: "),
    ],
)
def test_what_cannot_even_be_opened(packed, harm, message, capfd):
    harm(packed)
    assert cli.main(["data", "verify", str(packed), "--workers", "1"]) == 3
    errors = capfd.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1


def test_where_the_findings_cannot_be_written(folder, capfd):
    assert cli.main(["data", "verify", str(folder), "--workers", "1", "-o", "/proc/x"]) == 2
    assert "-o: /proc/x; cannot be written" in capfd.readouterr().err
