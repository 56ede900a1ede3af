"""A folder of class folders, ``train/CLASS/*`` and ``val/CLASS/*``, as a source and as what `store` indexes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from hvd_imagenet.data.packing.images import ENDINGS
from hvd_imagenet.data.sources import FileReader, Item, mixed, require_inside, require_same_classes
from hvd_imagenet.errors import DataError

Given, Found = TypeVar("Given"), TypeVar("Found")

_OF_THE_DESKTOP = {"thumbs.db", "desktop.ini"}  # hidden files on Windows


def has_class_folders(root: Path) -> bool:
    """Whether there are folders in ``train`` or ``val``, whatever they hold."""
    splits = [root / split for split in ("train", "val")]
    return any(entry.is_dir() for split in splits if split.is_dir() for entry in _visible(split))


def class_names(root: Path) -> list[str]:
    """The classes of a data folder: the folders in ``train``, sorted.

    Raises:
        DataError: no ``train`` or ``val``, no classes, not the same in both, or an image that is in none of them.
    """
    found = {}
    for split in ("train", "val"):
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{root}: has no folder {split}; a data set is train/CLASS/* and val/CLASS/*, or packed")
        entries = _visible(folder)
        found[split] = {entry.name for entry in entries if entry.is_dir()}
        if not found[split]:
            raise DataError(f"{folder}: holds no class folders; images belong in {split}/CLASS/")
        for entry in entries:
            if entry.name not in found[split] and entry.name.rpartition(".")[2].lower() in ENDINGS:
                raise DataError(f"{entry.path}: is in no class folder; images belong in {split}/CLASS/")
    require_same_classes(found["train"], found["val"], root)
    return sorted(found["train"])


def image_files(root: Path, split: str, classes: list[str]) -> tuple[list[str], list[int]]:
    """Paths below `root` and labels of a split's images, in the order of the sample numbers.

    The validation set is sorted by class, then by name; the training set is that, mixed. All files in class folders
    are taken for images, whatever their names, but hidden ones: what is none must not be lost without a word.

    Raises:
        DataError: the split holds no image of a class.
    """
    found = []
    for label, name in enumerate(classes):
        names = sorted(entry.name for entry in _visible(root / split / name))
        if not names:
            raise DataError(f"{root / split / name}: holds no image; add some, or remove the class in train and val")
        found += [(f"{split}/{name}/{file}", label) for file in names]
    files, labels = zip(*(mixed(found) if split == "train" else found), strict=True)
    return list(files), list(labels)


def _visible(folder: Path) -> list[os.DirEntry]:
    """What a folder holds but for the hidden files of desktops and notebooks."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in _OF_THE_DESKTOP]


def in_threads(function: Callable[[Given], Found], items: Sequence[Given], each: int = 1024) -> Iterator[Found]:
    """The function of each item, in their order, by threads that mostly wait for the file system.

    A thread takes `each` items at a time: of a million, no more is kept than their results.
    """
    with ThreadPoolExecutor() as pool:
        for found in pool.map(
            lambda start: [function(item) for item in items[start : start + each]], range(0, len(items), each)
        ):
            yield from found


class ImageFolder:
    """A folder of class folders as a source.

    Args:
        root: holds ``train/CLASS/*`` and ``val/CLASS/*``.
        follow_links: take what a symbolic link leads to outside of `root`, too.

    Raises:
        DataError: it is not such a folder, or a link leads out of it.
    """

    def __init__(self, root: Path, follow_links: bool = False):
        self.description = f"folder {root.resolve().name}"
        self.classes = class_names(root)
        self.reader = FileReader(root)
        self._root, self._follow_links = root, follow_links
        for split in ("train", "val"):
            for folder in (root / split, *(root / split / name for name in self.classes)):
                self._require_inside(folder)
        self.splits = {split: self._items(split) for split in ("train", "val")}

    def _items(self, split: str) -> list[Item]:
        files = list(zip(*image_files(self._root, split, self.classes), strict=True))
        return list(in_threads(self._item, files))

    def _item(self, found: tuple[str, int]) -> Item:
        file, label = found
        path = self._root / file
        try:
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                self._require_inside(path)
                state = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); repair or remove it") from None
        if not stat.S_ISREG(state.st_mode):
            raise DataError(f"{path}: is no file; move it out of {path.parent}")
        return Item(str(path), label, state.st_size, (file,))

    def _require_inside(self, path: Path) -> None:
        if not self._follow_links:
            require_inside(path, self._root)
