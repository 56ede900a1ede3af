"""A folder of class folders, ``train/CLASS/*`` and ``val/CLASS/*``, as a source and as what `store` indexes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hvd_imagenet.data.sources import Encoded
from hvd_imagenet.errors import DataError
from hvd_imagenet.stream import shuffled

EXTENSIONS = (".jpg", ".jpeg", ".png")


def class_names(root: Path) -> list[str]:
    """The classes of a data folder: the folders in ``train``, sorted.

    Raises:
        DataError: no ``train`` or ``val``, no classes, or a class of ``val`` that ``train`` lacks.
    """
    if (root / "dataset.json").exists():
        raise DataError(f"{root}: is packed already; use it as it is")
    found = {}
    for split in ("train", "val"):
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{root}: has no folder {split}; a data set is train/CLASS/* and val/CLASS/*, or packed")
        found[split] = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if not found[split]:
            raise DataError(f"{folder}: holds no class folders; images belong in {split}/CLASS/")
    unknown = sorted(set(found["val"]) - set(found["train"]))
    if unknown:
        raise DataError(f"{root / 'val' / unknown[0]}: a class that {root / 'train'} does not have; add or remove it")
    return found["train"]


def image_files(root: Path, split: str, classes: list[str]) -> tuple[list[str], list[int]]:
    """Paths below `root` and labels of a split's images, in the order of the sample numbers.

    The validation set is sorted by class, then by name. The training set is that, shuffled once and for all: where
    images that follow each other are read together, they should not be of one class.

    Raises:
        DataError: the split holds no image, or the training set none of a class.
    """
    files, labels = [], []
    for label, name in enumerate(classes):
        folder = root / split / name
        if not folder.is_dir():
            continue
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(EXTENSIONS))
        if not names and split == "train":
            raise DataError(f"{folder}: holds no image ({', '.join(EXTENSIONS)}); add some or remove the class")
        files += [f"{split}/{name}/{file}" for file in names]
        labels += [label] * len(names)
    if not files:
        raise DataError(f"{root / split}: holds no image ({', '.join(EXTENSIONS)}) in its class folders")
    if split == "train":
        order = shuffled(0, "source", len(files)).tolist()
        files, labels = [files[number] for number in order], [labels[number] for number in order]
    return files, labels


class ImageFolder:
    """A folder of class folders as a source.

    Args:
        root: holds ``train/CLASS/*`` and ``val/CLASS/*``.
    """

    def __init__(self, root: Path):
        self.description = f"folder {root.name}"
        self.classes = class_names(root)
        self._root = root
        self._files = {split: image_files(root, split, self.classes) for split in ("train", "val")}
        self.counts = {split: len(files) for split, (files, _) in self._files.items()}

    def images(self, split: str) -> Iterator[Encoded]:
        for file, label in zip(*self._files[split], strict=True):
            yield Encoded(str(self._root / file), label, (self._root / file).read_bytes())
