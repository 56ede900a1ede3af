"""Where images come from before they are packed: each source lists its images, and reads one when asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from hvd_imagenet.errors import DataError
from hvd_imagenet.stream import shuffled

Any = TypeVar("Any")


class Item(NamedTuple):
    """An image that has not been read yet.

    Attributes:
        name: where it comes from, to be found there by a person.
        label: its class number.
        length: of its encoded bytes, about, where only reading it would tell exactly.
        place: where the source's reader finds it.
    """

    name: str
    label: int
    length: int
    place: tuple


class Reader(Protocol):
    """Reads items, in any process."""

    def __call__(self, item: Item) -> bytes:
        """The encoded bytes of an item; raises OSError or DataError."""

    def file(self, item: Item) -> Path:
        """The file that an item lies in."""


class Source(Protocol):
    """What `data pack` reads.

    Attributes:
        classes: the names of the classes, in the order of the labels.
        splits: the images of ``train`` and ``val``, in the order of their sample numbers.
        description: what it is, for ``dataset.json``.
        reader: of its items; travels to other processes.
    """

    classes: list[str]
    splits: dict[str, list[Item]]
    description: str
    reader: Reader


class FileReader:
    """Reads items from files below a folder; their place is (path,) or, of a part of a file, (path, offset).

    Args:
        root: what the paths are relative to.
    """

    def __init__(self, root: Path):
        self._root = root

    def __call__(self, item: Item) -> bytes:
        path, *offset = item.place
        if not offset:
            return (self._root / path).read_bytes()
        descriptor = os.open(self._root / path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, item.length, *offset)
        finally:
            os.close(descriptor)
        if len(data) != item.length:
            raise DataError(f"{self._root / path}: has become shorter while it was read; begin again")
        return data

    def file(self, item: Item) -> Path:
        return self._root / item.place[0]


def require_inside(path: Path, root: Path) -> None:
    """Raise DataError where symbolic links lead to a file or folder outside of `root`."""
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(root)):
        raise DataError(f"{path}: is a link to {target}, out of {root}; if that is meant, give --follow-links")


def reading(parts: Sequence[Any], name: str) -> Iterable[Any]:
    """Parts of a source that are read one after the other, with a bar that shows how far that is."""
    return track(parts, f"reading {escape(name)}", console=Console(stderr=True), transient=True)


def mixed(images: list[Any]) -> list[Any]:
    """Training images that come class by class, shuffled once and for all.

    Where images that follow each other are read together, from a shard, they should not be of one class.
    """
    return [images[number] for number in shuffled(0, "source", len(images)).tolist()]


def in_class_order(items: list[Item]) -> bool:
    """Whether images come class by class."""
    labels = [item.label for item in items]
    return labels == sorted(labels) and labels[0] != labels[-1]


def require_same_classes(train: set[str], val: set[str], root: Path) -> None:
    """Raise DataError unless both splits have the same classes."""
    for split, extra, other in (("val", val - train, "train"), ("train", train - val, "val")):
        if extra:
            more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
            raise DataError(
                f"{root}: {split} has {len(val if split == 'val' else train)} classes, {other} "
                f"{len(train if split == 'val' else val)}: {min(extra)}{more} is missing in {other}; both need the same"
            )
