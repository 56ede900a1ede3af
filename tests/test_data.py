"""Packing, indexing and reading data sets, and what is said of bad ones."""

import gzip
import io
import json
import os
import shutil
import struct

import numpy as np
import pytest
from data_sets import packed_folder
from PIL import Image

from hvd_imagenet import cli
from hvd_imagenet.data.sources.fashion_mnist import DEBIAN_FOLDER, FashionMnist
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError
from hvd_imagenet.stream import shuffled


@pytest.fixture
def folder(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "images", ignore=shutil.ignore_patterns(".hvd_imagenet"))


@pytest.fixture
def packed(image_folder, tmp_path):
    return packed_folder(image_folder, tmp_path / "packed")


def everything(store):
    return [bytes(data) for data in store.read(np.arange(len(store)))]


def test_contents_are_known_by_their_checksum_packed_or_not(image_folder, tmp_path):
    plain = open_store(image_folder, "train")
    packed_folder(image_folder, tmp_path / "packed")
    assert plain.contents() == open_store(tmp_path / "packed", "train").contents()
    assert plain.contents() != open_store(image_folder, "val").contents()


def test_a_packed_set_and_its_folder_are_the_same_samples(image_folder, packed):
    for split, count in (("train", 50), ("val", 23)):
        plain, tars = open_store(image_folder, split), open_store(packed, split)
        assert len(plain) == len(tars) == count
        assert plain.classes == tars.classes == ["class0", "class1"]
        assert np.array_equal(plain.labels, tars.labels)
        assert np.array_equal(plain.sizes(slice(None)), tars.sizes(slice(None)))
        assert everything(plain) == everything(tars)


def test_samples_are_the_files_in_the_order_of_their_names(image_folder):
    store = open_store(image_folder, "val")
    files = sorted((image_folder / "val").glob("*/*.jpg"))
    assert everything(store) == [file.read_bytes() for file in files]
    assert store.labels.tolist() == [int(file.parent.name[-1]) for file in files]
    assert store.sizes(slice(None)).tolist() == [list(Image.open(file).size[::-1]) for file in files]


def test_training_images_are_shuffled_once_and_for_all(image_folder):
    store = open_store(image_folder, "train")
    files = sorted((image_folder / "train").glob("*/*.jpg"))
    order = shuffled(0, "source", 50)
    assert everything(store) == [files[number].read_bytes() for number in order]
    assert store.labels.tolist() == [int(files[number].parent.name[-1]) for number in order]


def test_a_folder_is_indexed_once(folder, monkeypatch):
    first = everything(open_store(folder, "train"))
    assert (folder / ".hvd_imagenet" / "train.npz").exists()
    from hvd_imagenet.data import folder_index

    monkeypatch.setattr(folder_index, "_index", lambda *_: pytest.fail("indexed again"))
    assert everything(open_store(folder, "train")) == first


def test_a_changed_folder_is_indexed_again(folder):
    assert len(open_store(folder, "train")) == 50
    os.remove(next((folder / "train" / "class1").glob("*.jpg")))
    assert len(open_store(folder, "train")) == 49


def test_a_damaged_index_of_a_folder_is_made_again(folder):
    open_store(folder, "train")
    (folder / ".hvd_imagenet" / "train.npz").write_bytes(b"PK\x03\x04 damaged")
    assert len(open_store(folder, "train")) == 50


def test_a_folder_that_cannot_be_written_is_indexed_in_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / ".hvd_imagenet").write_text("a file where the folder would be")
    assert len(open_store(folder, "train")) == 50
    assert len(list((tmp_path / "cache").rglob("train.npz"))) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: [shutil.rmtree(entry) for entry in root.iterdir()], "the folder is empty"),
        (lambda root: shutil.rmtree(root / "val"), "has no folder val"),
        (lambda root: [shutil.rmtree(entry) for entry in (root / "train").iterdir()], "holds no class folders"),
        (lambda root: [f.unlink() for f in (root / "val").rglob("*.jpg")], "holds no image"),
        (lambda root: [f.unlink() for f in (root / "train" / "class1").iterdir()], "train/class1: holds no image"),
        (
            lambda root: (root / "val" / "class1").rename(root / "val" / "zebra"),
            "val has 2 classes, train 2: zebra is missing in train; both need the same",
        ),
        (
            lambda root: shutil.rmtree(root / "val" / "class0"),
            "train has 2 classes, val 1: class0 is missing in val; both need the same",
        ),
        (lambda root: (root / "train" / "class0" / "00000.jpg").write_bytes(b""), "00000.jpg: not an image"),
        (lambda root: (root / "train" / "class0" / "00000.jpg").write_text("<html>"), "00000.jpg: not an image"),
        (
            lambda root: Image.new("RGB", (9, 9)).save(root / "train" / "class0" / "00000.jpg", "TIFF"),
            r"00000.jpg: of a format that is not decoded: TIFF \(convert it to JPEG or PNG\); repair or remove it",
        ),
    ],
)
def test_bad_folders(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        for split in ("train", "val"):
            open_store(folder, split)


def edit_json(root, change):
    description = json.loads((root / "dataset.json").read_text())
    change(description)
    (root / "dataset.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "dataset.json").write_text("{"), "dataset.json: unreadable"),
        (lambda root: edit_json(root, lambda d: d.pop("classes")), "dataset.json: unreadable"),
        (lambda root: edit_json(root, lambda d: d["splits"].pop("train")), "dataset.json: unreadable"),
        (lambda root: edit_json(root, lambda d: d.update(format=99)), "packed in format 99, this version reads 2"),
        (lambda root: edit_json(root, lambda d: d.update(classes=3)), "dataset.json: unreadable"),
        (lambda root: edit_json(root, lambda d: d["splits"]["train"].update(shards=[])), "dataset.json: unreadable"),
        (lambda root: edit_json(root, lambda d: d["splits"]["train"].update(samples=49)), "dataset.json: unreadable"),
        (lambda root: shutil.copy(root / "val" / "index.npz", root / "train"), "index.npz: does not fit"),
        (lambda root: save_npy(root / "train" / "index.npz"), "index.npz: unreadable index"),
        (lambda root: (root / "train" / "index.npz").unlink(), "index.npz: unreadable index"),
        (lambda root: (root / "train" / "index.npz").write_bytes(b"rubbish"), "index.npz: unreadable index"),
        (lambda root: truncate(root / "train" / "index.npz"), "index.npz: unreadable index"),
        (lambda root: np.savez(root / "train" / "index.npz", label=np.zeros(3)), "index.npz: unreadable index"),
        (lambda root: truncate(root / "train" / "shard-000000.tar"), "shard-000000.tar: missing or cut short"),
        (lambda root: (root / "train" / "shard-000000.tar").unlink(), "shard-000000.tar: missing or cut short"),
    ],
)
def test_bad_packed_sets(packed, damage, message):
    damage(packed)
    with pytest.raises(DataError, match=message):
        open_store(packed, "train")


def damage(path):
    data = bytearray(path.read_bytes())
    data[20:60] = bytes(40)
    path.write_bytes(data)


def save_npy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def test_a_file_that_shrinks_later_is_named(packed):
    store = open_store(packed, "train")
    truncate(packed / "train" / "shard-000000.tar")
    with pytest.raises(DataError, match="shard-000000.tar, sample 49, .*changed since it was indexed; make"):
        store.read([49])


@pytest.mark.parametrize("size", [10, 100_000])
def test_an_image_replaced_after_indexing_is_named(folder, size):
    store = open_store(folder, "val")
    (folder / "val" / "class0" / "00000.jpg").write_bytes(bytes(size))
    with pytest.raises(DataError, match=r"00000.jpg: the file has changed since it was indexed; remove .*hvd_im"):
        store.read([0])


def test_a_name_cannot_break_the_line_that_says_what_is_wrong(capfd):
    assert cli.main(["data", "info", "/nowhere\n\x1b[31m/ünd\udcff"]) == 3
    assert capfd.readouterr().err.startswith("hvd-imagenet: error: /nowhere\\n\\x1b[31m/ünd\\udcff: no such folder;")


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 5)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_fashion_mnist_from_idx_files(idx_folder):
    source = FashionMnist(idx_folder)
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 20, "val": 5}
    assert [item.label for item in source.splits["val"]] == [0, 1, 2, 3, 4]
    assert Image.open(io.BytesIO(source.reader(source.splits["val"][0]))).size == (28, 28)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "train-labels-idx1-ubyte.gz").unlink(),
            "not found; run: apt-get install dataset-fashion-mnist",
        ),
        (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(b"x"), "cannot be read"),
        (lambda f: truncate(f / "t10k-images-idx3-ubyte.gz"), "cannot be read"),
        (lambda f: damage(f / "t10k-images-idx3-ubyte.gz"), "cannot be read"),
        (lambda f: write_idx(f / "train-images-idx3-ubyte.gz", np.zeros((20, 28), np.uint8)), "not an IDX file"),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte.gz", np.zeros(19, np.uint8)), "do not belong together"),
        (lambda f: write_idx(f / "train-labels-idx1-ubyte.gz", np.full(20, 10, np.uint8)), "do not belong together"),
    ],
)
def test_bad_idx_files(idx_folder, damage, message):
    damage(idx_folder)
    with pytest.raises(DataError, match=message):
        FashionMnist(idx_folder)


@pytest.mark.skipif(not DEBIAN_FOLDER.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist():
    source = FashionMnist()
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 60_000, "val": 10_000}
    assert source.classes[source.splits["val"][0].label] == "Ankle boot"
