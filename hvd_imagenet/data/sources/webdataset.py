"""WebDataset tar shards as a source: files of one key make a sample, such as 000.jpg and 000.cls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hvd_imagenet.data.sources import (
    FileReader,
    Item,
    files_below,
    in_class_order,
    mixed,
    reading,
    require_same_classes,
)
from hvd_imagenet.data.sources.tars import Member, members, open_tar
from hvd_imagenet.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "tif", "tiff")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}


class _Sample(NamedTuple):
    shard: str
    image: Member
    label: str


def split_of(path: Path) -> str | None:
    """The split that a file belongs to by its folders' and its own name; None: neither train nor val."""
    words = re.split(r"[^a-z]+", "/".join(path.parts).lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None


class WebDatasetShards:
    """Tar shards as a source: ``train`` and ``val`` (or ``validation``) are told by the names of files or folders.

    Labels are class numbers, or names of classes; ``classes.txt`` gives numbers their names, a line each.

    Args:
        root: holds the shards, in it or in folders of it.

    Raises:
        DataError: no shards of a split, one that is cut short or no tar, or a sample without image or label.
    """

    description = "WebDataset shards"

    def __init__(self, root: Path):
        self._root = root
        self.reader = FileReader(root)
        shards = files_below(root, "*.tar")
        samples: dict[str, list[_Sample]] = {"train": [], "val": []}
        for shard in reading(shards, str(root)):
            split = split_of(shard)
            if split:
                samples[split] += self._samples(str(shard))
        for split, found in samples.items():
            if not found:
                raise DataError(f"{root}: has no {split} shards; {split} must be in the names of their files or folder")
        names = {split: {sample.label for sample in found} for split, found in samples.items()}
        require_same_classes(names["train"], names["val"], root)
        labels, self.classes = self._labels(names["train"])
        self.splits = {split: [self._item(sample, labels) for sample in found] for split, found in samples.items()}
        if in_class_order(self.splits["train"]):
            self.splits["train"] = mixed(self.splits["train"])

    def _samples(self, shard: str) -> Iterator[_Sample]:
        path = self._root / shard
        with open_tar(path) as file:
            samples: dict[str, dict[str, Member]] = {}
            for member in members(file, str(path)):
                key, extension = _key(member.name)
                samples.setdefault(key, {})[extension] = member
            for key, parts in samples.items():
                images = [parts[extension] for extension in IMAGES if extension in parts]
                if len(images) != 1 or "cls" not in parts:
                    raise DataError(
                        f"{path}: sample {key} has {', '.join(parts)}; needs one image ({', '.join(IMAGES[:3])}, ...) "
                        "and its class: cls"
                    )
                file.seek(parts["cls"].offset)
                yield _Sample(shard, images[0], file.read(parts["cls"].length).decode(errors="replace").strip())

    def _labels(self, found: set[str]) -> tuple[dict[str, int], list[str]]:
        """The class number of each label, and the names of all classes."""
        if not all(re.fullmatch(r"\d{1,9}", label) for label in found):
            names = sorted(found)
            return {name: number for number, name in enumerate(names)}, names
        labels = {label: int(label) for label in found}
        count = max(labels.values()) + 1
        missing = set(range(count)) - set(labels.values())
        if missing:
            raise DataError(f"{self._root}: labels go to {count - 1}, but none is {min(missing)}; is a shard missing?")
        names_file = self._root / "classes.txt"
        names = names_file.read_text().splitlines() if names_file.is_file() else [str(n) for n in range(count)]
        if len(names) != count:
            raise DataError(f"{names_file}: {len(names)} names for {count} classes; give one line for each")
        return labels, names

    def _item(self, sample: _Sample, labels: dict[str, int]) -> Item:
        name = f"{self._root / sample.shard}/{sample.image.name}"
        return Item(name, labels[sample.label], sample.image.length, (sample.shard, sample.image.offset))


def _key(name: str) -> tuple[str, str]:
    """The key of a sample and what kind of part a file is: all before the first dot of its name, and after it."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, extension.lower()
