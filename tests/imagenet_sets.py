"""A small ImageNet: the same images as archives of ILSVRC2012, and in class folders."""

import tarfile
from pathlib import Path

from data_sets import encoded, picture, tar_of

from hvd_imagenet.data.sources.imagenet import TRAIN, VAL
from hvd_imagenet.data.store import open_store

WNIDS = ["n01440764", "n02099601", "n03028079"]
IDS = {"n01440764": 2, "n02099601": 3, "n03028079": 1}  # ILSVRC2012's own numbers are not in the order of the names
VAL_WNIDS = [WNIDS[number] for number in (2, 0, 1, 1, 0, 2)]


def image(seed):
    return encoded(picture(20 + seed % 3, 24, seed))


def made(root: Path) -> Path:
    """Make both in a folder."""
    archives, folders = root / "archives", root / "folders"
    archives.mkdir()
    train = {
        wnid: {f"{wnid}_{number}.JPEG": image(100 * label + number) for number in range(5)}
        for label, wnid in enumerate(WNIDS)
    }
    val = {f"ILSVRC2012_val_{number:08d}.JPEG": image(1000 + number) for number in range(1, 7)}
    (archives / TRAIN).write_bytes(tar_of({f"{wnid}.tar": tar_of(images) for wnid, images in train.items()}))
    (archives / VAL).write_bytes(tar_of(val))
    for wnid, images in train.items():
        for split in ("train", "val"):
            (folders / split / wnid).mkdir(parents=True)
        for name, data in images.items():
            (folders / "train" / wnid / name).write_bytes(data)
    for (name, data), wnid in zip(val.items(), VAL_WNIDS, strict=True):
        (folders / "val" / wnid / name).write_bytes(data)
    return root


def samples(path, split):
    store = open_store(path, split)
    images = [bytes(data) for data in store.read(range(len(store)))]
    return list(zip((store.classes[label] for label in store.labels), images, strict=True))


def rewrite(path, change):
    """Change the members of a tar."""
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    path.write_bytes(tar_of(change(members)))


def with_one_more(members, name, data=b"data"):
    return {**members, name: data}
