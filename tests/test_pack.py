"""Packing: the same bytes however it is done, nothing lost when it is cut short, and nothing bad in the set."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bad_images import BAD, ODD
from data_sets import SMALL, encoded, files_of, json_lines, packed_folder, picture

from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError, SettingsError


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


def test_unusable_images_are_left_out_and_unusual_ones_listed(own_images, tmp_path):
    for name, (data, _) in {**BAD, **ODD}.items():
        (own_images / "train" / "class0" / name).write_bytes(data)
    packed = packed_folder(own_images, tmp_path / "packed", 0.5, shard_bytes=40_000)
    rejects, oddities = json_lines(packed / "rejects.jsonl"), json_lines(packed / "oddities.jsonl")
    assert {Path(line["name"]).name for line in rejects} == set(BAD)
    for line in rejects:
        assert (line["split"], line["label"]) == ("train", 0)
        assert re.search(BAD[Path(line["name"]).name][1], line["reason"])
    assert {Path(line["name"]).name for line in oddities} == set(ODD)
    store = open_store(packed, "train")
    assert len(store) == 50 + len(ODD)
    for path in own_images.glob("train/*/*"):
        path.unlink() if path.name in BAD else None
    whole = packed_folder(own_images, tmp_path / "without")
    assert sorted(map(bytes, store.read(range(len(store))))) == sorted(
        map(bytes, open_store(whole, "train").read(range(len(store))))
    )


@pytest.mark.parametrize(("share", "enough"), [(2 / 75, True), (1.9 / 75, False)])
def test_too_many_rejects_end_it_and_more_may_be_allowed(own_images, tmp_path, share, enough):
    for number in range(2):
        (own_images / "val" / "class1" / f"zz{number}.jpg").write_bytes(b"no image")
    if not enough:
        said = r"rejects.jsonl: 2 of 75 images cannot be used \(2.67%\), such as .*zz0.jpg: not an image; .* 2.67%"
        with pytest.raises(DataError, match=said):
            packed_folder(own_images, tmp_path / "packed", share)
        assert len(json_lines(tmp_path / "packed" / "rejects.jsonl")) == 2
        with pytest.raises(DataError, match=r"packed: is not packed to its end; run the same command again"):
            open_store(tmp_path / "packed", "val")
        share = 0.0267
    packed_folder(own_images, tmp_path / "packed", share)
    assert len(open_store(tmp_path / "packed", "val")) == 23


def test_none_left_of_a_split(own_images, tmp_path):
    for path in own_images.glob("val/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the images of val can be used"):
        packed_folder(own_images, tmp_path / "packed", 1.0)


def test_a_shard_of_which_nothing_is_left(own_images, tmp_path):
    for path in sorted(own_images.glob("val/class0/*")):
        path.write_bytes(b"no image")
    packed = packed_folder(own_images, tmp_path / "packed", 1.0, shard_bytes=30)
    store = open_store(packed, "val")
    assert len(store) == 11 and set(store.labels) == {1} and store.shard_samples.tolist() == [1] * 11
    assert len(list((packed / "val").glob("*.tar"))) == 11
    assert [bytes(d) for d in store.read(range(11))] == [
        p.read_bytes() for p in sorted(own_images.glob("val/class1/*"))
    ]


def test_a_limit_takes_some_of_each_split(image_folder, tmp_path):
    packed = packed_folder(image_folder, tmp_path / "packed", limit=20)
    train, val = open_store(packed, "train"), open_store(packed, "val")
    assert len(train) == len(val) == 20
    assert val.labels.tolist() == sorted(val.labels) and set(val.labels) == set(train.labels) == {0, 1}
    everything = {bytes(data) for data in open_store(image_folder, "val").read(range(23))}
    taken = {bytes(data) for data in val.read(range(20))}
    assert len(taken) == 20 and taken < everything
    assert len(open_store(packed_folder(image_folder, tmp_path / "more", limit=24), "val")) == 23


def test_images_are_stored_smaller(own_images, tmp_path):
    (own_images / "train" / "class0" / "large.png").write_bytes(encoded(picture(300, 400), "PNG"))
    packed = packed_folder(own_images, tmp_path / "packed", shorter_side=22, quality=90)
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
