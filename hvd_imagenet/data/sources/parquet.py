"""A folder of Parquet files as Hugging Face's hub keeps image data sets, as a source."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import parquet

from hvd_imagenet.data.sources import Item, files_below, in_class_order, mixed, reading, require_same_classes
from hvd_imagenet.data.sources.webdataset import split_of
from hvd_imagenet.errors import DataError


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

    Raises:
        DataError: no files of a split, one that is damaged, or without such columns.
    """

    description = "Parquet files"

    def __init__(self, root: Path):
        self._root = root
        files = files_below(root, "*.parquet")
        self.splits: dict[str, list[Item]] = {"train": [], "val": []}
        classes = None
        for file in reading(files, str(root)):
            split = split_of(file)
            if split:
                columns = _columns(root / file)
                classes = columns.classes or classes
                self.splits[split] += self._items(str(file), columns)
        self.reader = ParquetReader(root)
        for split, items in self.splits.items():
            if not items:
                raise DataError(f"{root}: has no {split} files; {split} must be in the names of the files")
        self.classes = self._names(classes)
        if in_class_order(self.splits["train"]):
            self.splits["train"] = mixed(self.splits["train"])

    def _items(self, file: str, columns: _Columns) -> Iterator[Item]:
        opened = _open(self._root / file)
        for group in range(opened.num_row_groups):
            rows = opened.read_row_group(group, columns=[f"{columns.image}.path", columns.label]).to_pydict()
            about = opened.metadata.row_group(group).total_byte_size // max(1, len(rows[columns.label]))
            for row, label in enumerate(rows[columns.label]):
                if not isinstance(label, int) or label < 0:
                    raise DataError(f"{self._root / file}: row {row} of group {group} has label {label}; give numbers")
                path = (rows.get(columns.image, [None] * (row + 1))[row] or {}).get("path") or f"{group}.{row}"
                yield Item(f"{self._root / file}/{path}", label, about, (file, columns.image, group, row))

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
    """Reads items from Parquet files below a folder; their place is (path, column, row group, row)."""

    def __init__(self, root: Path):
        self._root = root

    def __call__(self, item: Item) -> bytes:
        file, column, group, row = item.place
        data = _images(self._root / file, column, group)[row]
        return data.as_py() or b""

    def file(self, item: Item) -> Path:
        return self._root / item.place[0]


@functools.lru_cache(maxsize=2)  # items that follow each other are mostly of one group
def _images(path: Path, column: str, group: int) -> pyarrow.Array:
    table = _open(path).read_row_group(group, columns=[f"{column}.bytes"])
    return table.column(column).combine_chunks().field("bytes")


def _open(path: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged, or no Parquet file ({error}); fetch it again") from None


def _columns(path: Path) -> _Columns:
    """The columns of a file; by Hugging Face's notes in its schema, or by their types and names."""
    schema = _open(path).schema_arrow
    images = [field.name for field in schema if hasattr(field.type, "names") and "bytes" in field.type.names]
    notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = notes.get("info", {}).get("features", {})
    labels = {name: kind["names"] for name, kind in features.items()
              if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"}  # fmt: skip
    label = next((name for name in ("label", *labels) if name in schema.names), None)
    if len(images) != 1 or label is None:
        raise DataError(f"{path}: has columns {', '.join(schema.names)}; needs one of images (a struct with bytes) "
                        "and one of labels (ClassLabel, or named label)")  # fmt: skip
    return _Columns(images[0], label, labels.get(label))
