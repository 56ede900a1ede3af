"""What is packed: class folders, WebDataset shards, Parquet files; and bad ones of each."""

import json
import os
import shutil

import numpy as np
import pytest
from data_sets import Here, files_of, tar_of
from imagenet_sets import WNIDS, made, rewrite, samples, with_one_more

from hvd_imagenet.data import folder_index
from hvd_imagenet.data.pack import pack
from hvd_imagenet.data.sources import parquet, reading
from hvd_imagenet.data.sources.imagenet import DEVKIT, KAGGLE, TRAIN
from hvd_imagenet.data.sources.opening import open_source
from hvd_imagenet.errors import DataError


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return made(tmp_path_factory.mktemp("made"))


def webdataset_of(root, samples, extension="jpg", label=str):
    """Shards of (key, class, bytes), four samples each, named as a split each."""
    root.mkdir(exist_ok=True)
    for split, found in samples.items():
        for start in range(0, len(found), 4):
            members = {}
            for key, wnid, data in found[start : start + 4]:
                members |= {f"{key}.cls": label(wnid).encode(), f"{key}.{extension}": data}
                members[f"{key}.json"] = json.dumps({"wnid": wnid}).encode()
            (root / f"imagenet1k-{split}-{start // 4:04d}.tar").write_bytes(tar_of(members))


@pytest.fixture
def listed(imagenet):
    """The images of the folders: key, class and bytes, by split; those of train mixed, those of validation in order."""
    found = {"train": [], "validation": []}
    for split, name in (("train", "train"), ("validation", "val")):
        for file, data in files_of(imagenet / "folders" / name).items():
            wnid, key = file.removesuffix(".JPEG").split("/")
            found[split].append((key, wnid, data))
    order = np.random.default_rng(0).permutation(15)
    return {**found, "train": [found["train"][number] for number in order]}


def test_webdataset_shards(listed, tmp_path):
    webdataset_of(tmp_path / "shards", listed, label=lambda wnid: str(WNIDS.index(wnid)))
    (tmp_path / "shards" / "classes.txt").write_text("\n".join(WNIDS))
    source = open_source(tmp_path / "shards")
    assert source.description == "WebDataset shards"
    pack(source, tmp_path / "packed", Here())
    for split, name in (("train", "train"), ("validation", "val")):
        assert samples(tmp_path / "packed", name) == [(wnid, data) for _, wnid, data in listed[split]]


def test_webdataset_shards_with_names_for_labels_class_by_class(listed, tmp_path):
    by_class = {split: sorted(found, key=lambda sample: sample[1]) for split, found in listed.items()}
    webdataset_of(tmp_path / "shards", by_class, "jpeg")
    source = open_source(tmp_path / "shards")
    assert source.classes == WNIDS
    labels = [item.label for item in source.splits["train"]]
    assert sorted(labels) == [0] * 5 + [1] * 5 + [2] * 5 != labels  # mixed
    assert [item.label for item in source.splits["val"]] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: [p.unlink() for p in r.glob("*validation*")], "has no .*tar of val; val must be in the names"),
        (lambda r: os.truncate(next(r.glob("*train-0001*")), 2000), "imagenet1k-train-0001.tar: cut short"),
        (lambda r: (r / "imagenet1k-train-0009.tar").write_bytes(b"x" * 5000), "train-0009.tar: not an uncompressed"),
        (lambda r: rewrite(r / "imagenet1k-train-0000.tar", lambda m: {n: d for n, d in m.items() if "cls" not in n}),
         "sample n0.* has .*jpg.*; needs one image"),
        (lambda r: rewrite(r / "imagenet1k-train-0000.tar", lambda m: with_one_more(m, "x.cls", b"0")), "x has cls"),
        (lambda r: rewrite(r / "imagenet1k-train-0000.tar", lambda m: {**m, "y.cls": b"7", "y.jpg": b""}),
         "train has 4 classes, val 3: 7 is missing in val"),
        (lambda r: [rewrite(p, lambda m: {n: b"5" if d == b"2" else d for n, d in m.items()}) for p in r.glob("*.tar")],
         "labels go to 5, but none is 2"),
        (lambda r: (r / "classes.txt").write_text("one\ntwo\n"), "classes.txt: 2 names for 3 classes"),
        (lambda r: rewrite(r / "imagenet1k-train-0000.tar", lambda m: with_one_more(m, "../x.jpg")), "outside"),
        (lambda r: (r / "classes.txt").write_bytes("straße\nb\nc\n".encode("latin-1")), "classes.txt: not UTF-8"),
        (lambda r: shutil.copy(r / "imagenet1k-train-0000.tar", r / "extra-0.tar"),
         "extra-0.tar: is of neither train nor val by its name; rename it"),
        (lambda r: shutil.copy(r / "imagenet1k-train-0000.tar", r / "train_val-0.tar"), "is of both train and val"),
        (lambda r: shutil.copytree(r, r / "a" / "b"), "a/b/imagenet1k-.*tar: is too deep in folders"),
        (lambda r: rewrite(r / "imagenet1k-train-0000.tar", lambda m: with_one_more(m, list(m)[1][:-3] + "JPG")),
         "holds n.*jpg and n.*JPG, which are one part of one sample"),
    ],
)  # fmt: skip
def test_bad_webdataset_shards(listed, tmp_path, harm, message):
    webdataset_of(tmp_path / "shards", listed, label=lambda wnid: str(WNIDS.index(wnid)))
    harm(tmp_path / "shards")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "shards")


def test_what_lies_beside_webdataset_shards(listed, tmp_path):
    webdataset_of(tmp_path / "shards", listed)
    for name in ("test-0.tar", "._train-0.tar", ".cache/train-0.tar", ".cache/a/train-0.tar", "README.md"):
        (tmp_path / "shards" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shards" / name).write_text("none of ours")
    assert [len(items) for items in open_source(tmp_path / "shards").splits.values()] == [15, 6]


@pytest.mark.parametrize(("source", "file"), [("hub", "data/train-00000-of-00015.parquet"),
    ("shards", "imagenet1k-train-0000.tar"), ("shards", "classes.txt"), ("archives", TRAIN), ("archives", KAGGLE),
    ("archives", f"{DEVKIT}.tar.gz"), ("hub", "data")])  # fmt: skip
def test_links_that_lead_out_of_files(imagenet, listed, tmp_path, source, file):
    parquet_of(tmp_path / "hub", listed)
    webdataset_of(tmp_path / "shards", listed, label=lambda wnid: str(WNIDS.index(wnid)))
    (tmp_path / "shards" / "classes.txt").write_text("\n".join(WNIDS))
    shutil.copytree(imagenet / "archives", tmp_path / "archives")
    path = tmp_path / source / file
    if path.exists():
        path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{file}.* is a link to .*elsewhere.*, out of .*{source}; .* --follow-links"):
        open_source(tmp_path / source)
    if source != "archives":
        assert [len(items) for items in open_source(tmp_path / source, True).splits.values()] == [15, 6]


def parquet_of(root, samples, notes=True, image="image", label="label", classes=WNIDS):
    """Parquet files as Hugging Face's hub has them, seven rows in groups of two."""
    import pyarrow
    from pyarrow import parquet

    (root / "data").mkdir(parents=True, exist_ok=True)
    features = {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if notes else None
    for split, found in samples.items():
        for start in range(0, len(found), 7):
            rows = found[start : start + 7]
            images = [{"bytes": data, "path": f"{key}.JPEG"} for key, _, data in rows]
            columns = {image: images, label: [WNIDS.index(wnid) for _, wnid, _ in rows]}
            table = pyarrow.table(columns).replace_schema_metadata(metadata)
            parquet.write_table(table, root / "data" / f"{split}-{start:05d}-of-00015.parquet", row_group_size=2)


TRAIN_7 = "data/train-00007-of-00015.parquet"


def spoil(path, column):
    """Spoil the beginning of a column of the second row group."""
    from pyarrow import parquet

    group = parquet.ParquetFile(path).metadata.row_group(1)
    about = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    with path.open("r+b") as file:
        file.seek(about.dictionary_page_offset or about.data_page_offset)
        file.write(b"\xff" * 20)


def test_a_damaged_row_group_is_named_when_its_turn_comes(listed, tmp_path):
    parquet_of(tmp_path / "hub", listed)
    spoil(tmp_path / "hub" / TRAIN_7, "image.bytes")
    with pytest.raises(DataError, match="train-00007-of-00015.parquet: row group 1 is damaged .*; fetch it again"):
        pack(open_source(tmp_path / "hub"), tmp_path / "packed", Here())


def test_parquet_files_class_by_class_are_mixed_in_runs_that_memory_holds(listed, tmp_path, monkeypatch):
    by_class = {split: sorted(found, key=lambda sample: sample[1]) for split, found in listed.items()}
    parquet_of(tmp_path / "hub", by_class)
    monkeypatch.setattr(parquet, "HELD_BYTES", 9000)  # three or four groups of two images
    read = []
    reading = parquet._read
    monkeypatch.setattr(parquet, "_read", lambda *group: read.append(group) or reading(*group))
    source = open_source(tmp_path / "hub")
    train = source.splits["train"]
    assert [item.label for item in train] != sorted(item.label for item in train)
    assert len({item.place for item in train}) == 15
    assert sorted(source.reader(item) for item in train) == sorted(data for *_, data in listed["train"])
    assert len(read) == len(set(read)) == 9  # each of the groups of 2, 2, 2, 1; 2, 2, 2, 1; 1 rows once
    assert sum(images.nbytes for images in source.reader._held.values()) < 9000 + 4000


def test_parquet_files(listed, tmp_path):
    parquet_of(tmp_path / "hub", {**listed, "test": [("x", WNIDS[0], b"")]})
    source = open_source(tmp_path / "hub")
    assert source.description == "Parquet files" and source.classes == WNIDS
    assert source.splits["val"][0].name.endswith(f"validation-00000-of-00015.parquet/{listed['validation'][0][0]}.JPEG")
    pack(source, tmp_path / "packed", Here())
    for split, name in (("train", "train"), ("validation", "val")):
        assert samples(tmp_path / "packed", name) == [(wnid, data) for _, wnid, data in listed[split]]


def test_parquet_files_without_notes_or_with_other_names(listed, tmp_path):
    parquet_of(tmp_path / "plain", listed, notes=False)
    assert open_source(tmp_path / "plain").classes == ["0", "1", "2"]
    parquet_of(tmp_path / "other", listed, image="img", label="fine_label")
    assert open_source(tmp_path / "other").classes == WNIDS


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r, s: [p.unlink() for p in r.rglob("train*")], "has no .*parquet of train; train must be in the names"),
        (lambda r, s: os.truncate(next(r.rglob("train-00007*")), 900), "train-00007.*: damaged, or no Parquet file"),
        (lambda r, s: next(r.rglob("train-00007*")).write_bytes(b"<html>"), "damaged, or no Parquet file"),
        (
            lambda r, s: parquet_of(r, s, notes=False, label="category"),
            "has columns image, category; needs one",
        ),
        (lambda r, s: parquet_of(r, {**s, "validation": s["validation"][:2]}), "is missing in val; both need the same"),
        (
            lambda r, s: parquet_of(r, {"validation": s["validation"]}, classes=WNIDS[::-1]),
            "validation-00000-of-00015.parquet: names the classes n03.*, but .*/train-00000-of-00015.parquet n014",
        ),
        (lambda r, s: spoil(r / TRAIN_7, "label"), "train-00007-of-00015.parquet: row group 1 is damaged"),
        (lambda r, s: spoil(r / TRAIN_7, "image.path"), "train-00007-of-00015.parquet: row group 1 is damaged"),
    ],
)
def test_bad_parquet_files(listed, tmp_path, harm, message):
    parquet_of(tmp_path / "hub", listed)
    harm(tmp_path / "hub", listed)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "hub")


def test_class_folders(image_folder):
    source = open_source(image_folder)
    assert source.description == "folder images"
    assert [len(source.splits[split]) for split in ("train", "val")] == [50, 23]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: r.rmdir(), "no such folder"),
        (lambda r: None, "not a data set that is known; name the folder of class folders .*ILSVRC2012_img_train.tar"),
        (lambda r: (r / "a.zip").touch(), "not a data set that is known"),
        (lambda r: (r / "dataset.json").touch(), "is packed already; use it as it is"),
        (lambda r: (r / "train").mkdir(), "has no folder val|holds no class folders"),
        (
            lambda r: [(r / "train" / "a").mkdir(parents=True), (r / "train-0.tar").touch()],
            "holds archives or tar shards and class folders; move all but one",
        ),
        (lambda r: [(r / "train-0.parquet").touch(), (r / "train-0.tar").touch()], "holds .* shards and Parquet files"),
    ],
)
def test_no_source_at_all(tmp_path, make, message):
    (tmp_path / "x").mkdir()
    make(tmp_path / "x")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "x")


@pytest.fixture
def folder(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "set", ignore=shutil.ignore_patterns(".hvd_imagenet"))


@pytest.mark.parametrize("level", ["image", "class", "split"])
def test_links_that_lead_out_of_the_folder(folder, tmp_path, level):
    inside = {"image": "train/class0/00000.jpg", "class": "val/class1", "split": "val"}[level]
    (folder / inside).rename(tmp_path / "elsewhere")
    (folder / inside).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{inside}: is a link to .*elsewhere, out of .*set; .* --follow-links"):
        open_source(folder)
    source = open_source(folder, follow_links=True)
    assert [len(source.splits[split]) for split in ("train", "val")] == [50, 23]


def test_links_within_the_folder_are_taken(folder):
    (folder / "train" / "class0" / "again.jpg").symlink_to("00000.jpg")
    assert len(open_source(folder).splits["train"]) == 51


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.symlink_to("nowhere"), r"zz.jpg: cannot be read \(No such file or directory\)"),
        (lambda p: p.symlink_to(p), r"zz.jpg: cannot be read \(Too many levels of symbolic links\)"),
        (lambda p: p.mkdir(), "zz.jpg: is no file; move it out of .*class0"),
        (lambda p: os.mkfifo(p), "zz.jpg: is no file; move it out of .*class0"),
        (lambda p: p.with_name("more").mkdir(), "more: is no file; move it out of .*class0"),
        (lambda p: p.parents[1].joinpath("z.JPG").touch(), "train/z.JPG: is in no class folder; images belong in"),
    ],
)
def test_what_is_no_image_file(folder, make, message):
    make(folder / "train" / "class0" / "zz.jpg")
    with pytest.raises(DataError, match=message):
        open_source(folder)


def test_all_visible_files_of_class_folders_are_taken(folder):
    for name in ("a.webp", "b.bmp", "c.gif", "d.txt", "e", ".DS_Store", "Thumbs.db", "desktop.ini", "._00000.jpg"):
        (folder / "train" / "class0" / name).touch()
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "classes.txt").touch()
    found = {item.name.rpartition("/")[2] for item in open_source(folder).splits["train"]}
    assert {name for name in found if not name.endswith(".jpg")} == {"a.webp", "b.bmp", "c.gif", "d.txt", "e"}
    assert len(found) == 50 + 5


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_without_images(folder, split):
    for path in (folder / split / "class1").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"{split}/class1: holds no image; add some, or remove the class in train and"):
        open_source(folder)


def test_brackets_in_a_name_are_no_markup(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    assert list(reading([1, 2], "m[/x]")) == [1, 2]
    monkeypatch.setattr(folder_index, "WORTH_A_BAR", 0)
    (tmp_path / "m[").mkdir()
    assert len(folder_index.open_or_make(folder.rename(tmp_path / "m[" / "x]"), "train")[2]) == 50
