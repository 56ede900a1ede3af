"""WebDataset tar shards as a source: files of one key make a sample, such as 000.jpg and 000.cls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hvd_imagenet.data.sources import (
    FileReader,
    Item,
    in_class_order,
    mixed,
    reading,
    require_inside,
    require_same_classes,
)
from hvd_imagenet.data.sources.shards import shards_of
from hvd_imagenet.data.sources.tars import Member, members, open_tar
from hvd_imagenet.errors import DataError

# Whether the decoder reads them, packing finds out.
IMAGES = {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pnm", "jp2", "avif"}


class _Sample(NamedTuple):
    shard: str
    image: Member
    label: str


class WebDatasetShards:
    """Tar shards as a source: ``train`` and ``val`` (or ``validation``) are told by the names of files or folders.

    Labels are class numbers, or names of classes; ``classes.txt`` gives numbers their names, a line each.

    Args:
        root: holds the shards, in it or in folders of it.
        follow_links: take what a symbolic link leads to outside of `root`, too.

    Raises:
        DataError: no shards of a split, one of neither, one that is cut short or no tar, a link that leads out, or a
            sample without image or label.
    """

    description = "WebDataset shards"

    def __init__(self, root: Path, follow_links: bool = False):
        self._root, self._follow_links = root, follow_links
        self.reader = FileReader(root)
        shards = [(split, shard) for split, found in shards_of(root, "*.tar", follow_links).items() for shard in found]
        samples: dict[str, list[_Sample]] = {"train": [], "val": []}
        for split, shard in reading(shards, str(root)):
            samples[split] += self._samples(str(shard))
        for split, found in samples.items():
            if not found:
                raise DataError(f"{root}: the shards of {split} are empty; fetch them again")
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
                same = samples.setdefault(key, {}).setdefault(extension, member)
                if same != member:
                    raise DataError(
                        f"{path}: holds {same.name} and {member.name}, which are one part of one sample; rename one"
                    )
            for key, parts in samples.items():
                images = [part for extension, part in parts.items() if extension in IMAGES]
                if len(images) != 1 or "cls" not in parts:
                    raise DataError(
                        f"{path}: sample {key} has {', '.join(parts)}; needs one image (jpg, ...) and its class: cls"
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
        return labels, self._names(count)

    def _names(self, count: int) -> list[str]:
        file = self._root / "classes.txt"
        if not file.is_file():
            return [str(number) for number in range(count)]
        if not self._follow_links:
            require_inside(file, self._root)
        try:
            names = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from None
        if len(names) != count:
            raise DataError(f"{file}: {len(names)} names for {count} classes; give one line for each")
        return names

    def _item(self, sample: _Sample, labels: dict[str, int]) -> Item:
        name = f"{self._root / sample.shard}/{sample.image.name}"
        return Item(name, labels[sample.label], sample.image.length, (sample.shard, sample.image.offset))


def _key(name: str) -> tuple[str, str]:
    """The key of a sample and what kind of part a file is: all before the first dot of its name, and after it."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, extension.lower()
