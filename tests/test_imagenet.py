"""ILSVRC2012's archives as a source, and bad ones."""

import csv
import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from data_sets import Here, files_of, packed_folder, tar_of
from imagenet_sets import IDS, VAL_WNIDS, WNIDS, made, rewrite, samples, with_one_more

from hvd_imagenet.data.pack import pack
from hvd_imagenet.data.sources.imagenet import DEVKIT, KAGGLE, META, TRAIN, TRUTH, VAL
from hvd_imagenet.data.sources.opening import open_source
from hvd_imagenet.errors import DataError


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return made(tmp_path_factory.mktemp("made"))


def devkit() -> dict[str, bytes]:
    import scipy.io

    kind = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object), ("num_children", float)]
    # As in the real one: after the classes come their hypernyms, with higher numbers.
    rows = [(number, wnid, "a fish", 0) for wnid, number in sorted(IDS.items(), key=lambda item: item[1])]
    synsets = np.array([*rows, (1001, "n00001740", "entity", 2)], kind)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets}, do_compression=True)
    return {META: meta.getvalue(), TRUTH: "".join(f"{IDS[wnid]}\n" for wnid in VAL_WNIDS).encode()}


def add_devkit(root, unpacked=False):
    files = {f"{DEVKIT}/{name}": data for name, data in devkit().items()}
    if not unpacked:
        with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as tar:
            for name, data in files.items():
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
        return
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def add_kaggle(root, wnids=VAL_WNIDS):
    with (root / KAGGLE).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        for number, wnid in sorted(enumerate(wnids, 1), key=lambda row: row[1]):
            rows.writerow([f"ILSVRC2012_val_{number:08d}", f"{wnid} 1 2 30 40 {wnid} 5 6 70 80"])


@pytest.fixture
def archives(imagenet, tmp_path):
    return shutil.copytree(imagenet / "archives", tmp_path / "archives")


@pytest.mark.parametrize(
    "truth", [add_devkit, lambda root: add_devkit(root, True), add_kaggle, lambda r: (add_devkit(r), add_kaggle(r))]
)
def test_the_archives_are_the_same_samples_as_the_folders(imagenet, archives, tmp_path, truth):
    truth(archives)
    source = open_source(archives)
    assert source.description == "ILSVRC2012 archives" and source.classes == WNIDS
    pack(source, tmp_path / "packed", Here())
    packed_folder(imagenet / "folders", tmp_path / "expected")
    for split, count in (("train", 15), ("val", 6)):
        found = samples(tmp_path / "packed", split)
        assert found == samples(tmp_path / "expected", split) and len(found) == count
    train = {file: data for file, data in files_of(imagenet / "folders" / "train").items()}
    assert sorted(samples(tmp_path / "packed", "train")) == sorted((f.split("/")[0], d) for f, d in train.items())


def as_link(root, target, kind=tarfile.SYMTYPE):
    """Make the first image of the validation archive a link."""

    def change(header):
        if header.name.endswith("01.JPEG"):
            header.type, header.linkname, header.size = kind, target, 0

    with tarfile.open(root / VAL) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    (root / VAL).write_bytes(tar_of(members, change))


def twice(path):
    with tarfile.open(path) as tar:
        name = tar.getnames()[0]
    with tarfile.open(path, "a") as tar:
        header = tarfile.TarInfo(name)
        tar.addfile(header)


def repeat_last_line(path):
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def second_header(path):
    with tarfile.open(path) as tar:
        return tar.getmembers()[1].offset


def damage(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def followed_by(path, more):
    """Have only these bytes after a tar's last member."""
    with tarfile.open(path) as tar:
        tar.getmembers()
        path.write_bytes(path.read_bytes()[: tar.offset] + more)


def with_part(members, name, change):
    return {**members, name: change(members[name])}


def zeros_from(data, share):
    """As of a download that was given its space beforehand, and cut short."""
    return data[: int(len(data) * share)].ljust(len(data), b"\0")


def with_negative_size(path):
    """Have the second header say that its file is of -512 bytes; with that, the third one is the second again."""
    header = bytearray(path.read_bytes()[(at := second_header(path)) :][:512])
    header[124:136] = b"\xff" * 10 + (-512 % 2**16).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    damage(path, at, header)


@pytest.mark.parametrize("zeros", [512, 1024, 20 * 512, 21 * 512])
def test_the_padding_that_tars_have(archives, zeros):
    add_kaggle(archives)
    followed_by(archives / VAL, bytes(zeros))
    followed_by(archives / TRAIN, bytes(zeros))
    assert [len(items) for items in open_source(archives).splits.values()] == [15, 6]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: (r / VAL).unlink(), f"{VAL}: not found; the archives of ILSVRC2012 belong into one folder"),
        (lambda r: (r / TRAIN).unlink(), f"{TRAIN}: not found"),
        (lambda r: (r / KAGGLE).unlink(), f"nothing says the classes of {VAL}; add {DEVKIT}.tar.gz, or Kaggle's"),
        (lambda r: os.truncate(r / VAL, 3000), f"{VAL}: cut short"),
        (lambda r: os.truncate(r / TRAIN, 3000), f"{TRAIN}: cut short"),
        (lambda r: os.truncate(r / TRAIN, 14_000), f"{TRAIN}: cut short"),
        (lambda r: os.truncate(r / VAL, 1024), f"{VAL}: cut short or damaged at byte 1,024|cut short"),
        (lambda r: (r / VAL).write_bytes(b""), f"{VAL}: not an uncompressed tar file .*; fetch it again"),
        (lambda r: (r / VAL).write_bytes(b"<html>" * 1000), f"{VAL}: not an uncompressed tar file"),
        (lambda r: (r / TRAIN).write_bytes(b"\x1f\x8b\x08" + bytes(900)), f"{TRAIN}: not an uncompressed tar file"),
        (lambda r: shutil.copy(r / VAL, r / TRAIN), f"{TRAIN}: holds ILSVRC2012_val_00000001.JPEG, where a tar"),
        (lambda r: rewrite(r / TRAIN, lambda m: {**m, "n09999999.tar": tar_of({})}), "n09999999.tar"),
        (lambda r: rewrite(r / TRAIN, lambda m: {n: m[n][:700] for n in m}), "n01440764.tar: cut short"),
        (lambda r: rewrite(r / TRAIN, lambda m: {n: m[n] for n in list(m)[1:]}), "n01440764 is missing in train"),
        (lambda r: rewrite(r / VAL, lambda m: {n: m[n] for n in list(m)[1:]}), "5 images, 6 labels: I.*1 is missing"),
        (lambda r: rewrite(r / VAL, lambda m: with_one_more(m, "ILSVRC2012_val_00000007.JPEG")), "7 images, 6 labels"),
        (lambda r: rewrite(r / VAL, lambda m: with_one_more(m, "../../evil.JPEG")), "would be unpacked outside of its"),
        (lambda r: rewrite(r / VAL, lambda m: with_one_more(m, "/etc/evil.JPEG")), "would be unpacked outside of its"),
        (lambda r: as_link(r, "/etc/passwd"), "01.JPEG is a link to /etc/passwd; pack the file itself"),
        (lambda r: as_link(r, "ILSVRC2012_val_00000002.JPEG", tarfile.LNKTYPE), "is a link to ILSVRC2012_val_00000002"),
        (lambda r: as_link(r, "", tarfile.FIFOTYPE), "01.JPEG is no plain file"),
        (lambda r: twice(r / VAL), "holds two files named ILSVRC2012_val_00000001.JPEG"),
        (lambda r: rewrite(r / VAL, lambda m: {**m, "x/ILSVRC2012_val_00000002.JPEG": b""}), "2 in two folders"),
        (lambda r: rewrite(r / TRAIN, lambda m: {**m, "x/n01440764.tar": m["n01440764.tar"]}), "is there twice"),
        (lambda r: damage(r / VAL, second_header(r / VAL), bytes([255])), "cut short or damaged at byte"),
        (lambda r: with_negative_size(r / VAL), f"{VAL}: cut short or damaged at ILSVRC2012_val_00000002.JPEG"),
        (lambda r: followed_by(r / VAL, bytes(511)), f"{VAL}: cut short or damaged at byte"),
        (lambda r: followed_by(r / VAL, bytes(22 * 512)), rf"{VAL}: ends at byte \d,\d+ of \d+,\d+; fetch it again"),
        (lambda r: followed_by(r / VAL, bytes(1024) + b"x"), f"{VAL}: ends at byte"),
        (lambda r: (r / VAL).write_bytes((r / VAL).read_bytes() * 2), f"{VAL}: ends at byte"),
        (lambda r: rewrite(r / TRAIN, lambda m: with_part(m, "n01440764.tar", lambda d: zeros_from(d + d, 0.2))),
         f"{TRAIN}: n01440764.tar: ends at byte"),
        (lambda r: add_kaggle(r, VAL_WNIDS[:-1]), "6 images, 5 labels"),
        (lambda r: add_kaggle(r, ["tench"] * 6), "is of class tench, which is no WordNet ID"),
        (lambda r: (r / KAGGLE).write_text("a,b\n1,2\n"), f"{KAGGLE}: cannot be read"),
        (lambda r: (add_devkit(r), add_kaggle(r, WNIDS * 2)), f"{DEVKIT} and {KAGGLE} say different things of ILSV"),
        (lambda r: repeat_last_line(r / KAGGLE), f"{KAGGLE}: ILSVRC2012_val_0000000. is there twice"),
        (lambda r: (add_devkit(r, True), damage(r / DEVKIT / META, 200, b"\xff" * 99)), f"{DEVKIT}: cannot be read"),
        (lambda r: (add_devkit(r, True), damage(r / DEVKIT / META, 124, b"\0\2")), f"{DEVKIT}: cannot be read"),
        (lambda r: (add_devkit(r), damage(r / f"{DEVKIT}.tar.gz", 200, b"\xff" * 99)), "tar.gz: cannot be read"),
        (lambda r: (r / f"{DEVKIT}.tar.gz").write_bytes(b"no tar"), f"{DEVKIT}.tar.gz: cannot be read"),
        (lambda r: (add_devkit(r, True), (r / DEVKIT / META).write_bytes(b"x")), f"{DEVKIT}: cannot be read"),
        (lambda r: (add_devkit(r, True), (r / DEVKIT / TRUTH).write_text("1\n2\n9999\n")), f"{DEVKIT}: cannot be read"),
    ],
)  # fmt: skip
def test_bad_archives(archives, harm, message):
    add_kaggle(archives)
    before = sorted(archives.parent.rglob("*"))
    harm(archives)
    with pytest.raises(DataError, match=message):
        open_source(archives)
    assert set(archives.parent.rglob("*")) - set(before) <= set(archives.rglob("*"))
