"""A folder of Parquet files as Hugging Face's hub keeps image data sets, as a source."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import parquet

from hvd_imagenet.data.sources import Item, in_class_order, mixed, reading, require_same_classes
from hvd_imagenet.data.sources.shards import shards_of
from hvd_imagenet.errors import DataError

HELD_BYTES = 256 * 2**20  # of row groups in memory, where images of several follow each other


class _Columns(NamedTuple):
    """What a file's schema says: names of the columns of images and of labels, and of the classes, if it knows them."""

    image: str
    label: str
    classes: list[str] | None


class ParquetFolder:
    """Parquet files as a source: ``train`` and ``val`` (or ``validation``) are told by their names.

    The column of images is a struct with ``bytes``; that of labels is the schema's ClassLabel, or named label.

    Args:
        root: holds the files, in it or in folders of it.
        follow_links: take what a symbolic link leads to outside of `root`, too.

    Raises:
        DataError: no files of a split, one of neither, one that is damaged, or without such columns, a link that leads
            out, or files that name the classes differently.
    """

    description = "Parquet files"

    def __init__(self, root: Path, follow_links: bool = False):
        self._root = root
        files = [(split, file) for split, found in shards_of(root, "*.parquet", follow_links).items() for file in found]
        self.splits: dict[str, list[Item]] = {"train": [], "val": []}
        named: dict[Path, list[str]] = {}  # the classes, by the files that name them
        for split, file in reading(files, str(root)):
            columns = _columns(root / file)
            if columns.classes:
                named[file] = columns.classes
            self.splits[split] += self._items(str(file), columns)
        for split, items in self.splits.items():
            if not items:
                raise DataError(f"{root}: the files of {split} are empty; fetch them again")
        self.classes = self._names(self._agreed(named))
        mix = in_class_order(self.splits["train"])
        self.reader = ParquetReader(root, HELD_BYTES if mix else 0)
        if mix:
            self.splits["train"] = _mixed(self.splits["train"])

    def _items(self, file: str, columns: _Columns) -> Iterator[Item]:
        opened = _open(self._root / file)
        for group in range(opened.num_row_groups):
            with _naming(self._root / file, group):
                rows = opened.read_row_group(group, columns=[f"{columns.image}.path", columns.label]).to_pydict()
            labels = rows[columns.label]
            paths = [(image or {}).get("path") for image in rows.get(columns.image, [None] * len(labels))]
            about = opened.metadata.row_group(group).total_byte_size // max(1, len(labels))
            for row, (label, path) in enumerate(zip(labels, paths, strict=True)):
                if not isinstance(label, int) or label < 0:
                    raise DataError(f"{self._root / file}: row {row} of group {group} has label {label}; give numbers")
                name = f"{self._root / file}/{path or f'{group}.{row}'}"
                yield Item(name, label, about, (file, columns.image, group, row))

    def _agreed(self, named: dict[Path, list[str]]) -> list[str] | None:
        """What all files that name the classes call them; None: there is no such file."""
        first, *others = named or [None]
        for other in others:
            if named[other] != named[first]:
                raise DataError(
                    f"{self._root / other}: names the classes {_listed(named[other])}, but {self._root / first} "
                    f"{_listed(named[first])}; both need the same, in the same order"
                )
        return named.get(first)

    def _names(self, classes: list[str] | None) -> list[str]:
        found = {split: {item.label for item in items} for split, items in self.splits.items()}
        count = max(found["train"] | found["val"]) + 1
        names = classes or [str(number) for number in range(count)]
        if count > len(names):
            raise DataError(f"{self._root}: has labels up to {count - 1}, but names {len(names)} classes")
        require_same_classes(*({names[label] for label in found[split]} for split in ("train", "val")), self._root)
        if len(found["train"]) != len(names):
            raise DataError(f"{self._root}: names {len(names)} classes, but has images of {len(found['train'])}")
        return names


class ParquetReader:
    """Reads items from Parquet files below a folder; their place is (path, column, row group, row).

    Args:
        root: what the paths are relative to.
        held_bytes: of row groups that stay in memory, beside the one that an item is read from.
    """

    def __init__(self, root: Path, held_bytes: int):
        self._root, self._held_bytes = root, held_bytes
        self._held: OrderedDict[tuple, pyarrow.Array] = OrderedDict()  # the one that was wanted last at the end

    def __call__(self, item: Item) -> bytes:
        *group, row = item.place
        return self._images(*group)[row].as_py() or b""

    def _images(self, *group: str | int) -> pyarrow.Array:
        if group not in self._held:
            while sum(images.nbytes for images in self._held.values()) > self._held_bytes:
                self._held.popitem(last=False)
            self._held[group] = _read(self._root, *group)
        self._held.move_to_end(group)
        return self._held[group]

    def file(self, item: Item) -> Path:
        return self._root / item.place[0]


def _read(root: Path, file: str, column: str, group: int) -> pyarrow.Array:
    opened = _open(root / file)
    with _naming(root / file, group):
        table = opened.read_row_group(group, columns=[f"{column}.bytes"])
        return table.column(column).combine_chunks().field("bytes")


def _mixed(items: list[Item]) -> list[Item]:
    """Training images that come class by class, shuffled once and for all, as far as row groups can be held in memory.

    Row groups are shuffled, then the images of those that follow each other: a part of one cannot be read.
    """
    groups = mixed([list(images) for _, images in groupby(items, lambda item: item.place[:-1])])
    runs, held = [[]], 0
    for images in groups:
        length = sum(image.length for image in images)
        if runs[-1] and held + length > HELD_BYTES:
            runs.append([])
            held = 0
        runs[-1] += images
        held += length
    return [image for run in runs for image in mixed(run)]


def _open(path: Path) -> parquet.ParquetFile:
    with _naming(path):
        return parquet.ParquetFile(path)


@contextmanager
def _naming(path: Path, group: int | None = None) -> Iterator[None]:
    """Name the file, and its row group, in errors of reading it."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: texts that are none
        what = "damaged, or no Parquet file" if group is None else f"row group {group} is damaged"
        raise DataError(f"{path}: {what} ({' '.join(str(error).split())}); fetch it again") from None


def _columns(path: Path) -> _Columns:
    """The columns of a file; by Hugging Face's notes in its schema, or by their types and names."""
    schema = _open(path).schema_arrow
    images = [field.name for field in schema if hasattr(field.type, "names") and "bytes" in field.type.names]
    try:
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = notes.get("info", {}).get("features", {})
        labels = {name: kind["names"] for name, kind in features.items()
                  if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"}  # fmt: skip
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: what it says of its columns cannot be read ({error!r}); fetch it again") from None
    label = next((name for name in ("label", *labels) if name in schema.names), None)
    if len(images) != 1 or label is None:
        raise DataError(f"{path}: has columns {', '.join(schema.names)}; needs one of images (a struct with bytes) "
                        "and one of labels (ClassLabel, or named label)")  # fmt: skip
    return _Columns(images[0], label, labels.get(label))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
