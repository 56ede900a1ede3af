"""Random access to encoded images by sample number, from a packed data set or a plain folder of class folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from hvd_imagenet.data import folder_index
from hvd_imagenet.data.index import SplitIndex
from hvd_imagenet.data.pack import FORMAT
from hvd_imagenet.errors import DataError


class Store:
    """One split of a data set.

    Attributes:
        path: the data set's folder.
        classes: names of the classes, in the order of the labels.
        labels: class numbers, int32, shape (samples,).
        sizes: heights and widths of the encoded images, int64, shape (samples, 2).
    """

    def __init__(self, path: Path, classes: list[str], index: SplitIndex, files: list[str], plain: bool):
        self.path = path
        self.classes = classes
        self.labels = index.label
        self.sizes = index.sizes()
        self.encoded_bytes = int(index.length.sum())
        self._index = index
        self._files = files
        self._plain = plain  # each file one image, and anybody may replace it

    def __len__(self) -> int:
        return len(self.labels)

    def contents(self) -> str:
        """A short checksum of the split: its classes, and each sample's label, length and size, in their order."""
        table = np.column_stack([self.labels, self._index.length, self.sizes]).astype("<i8")
        return hashlib.sha256(json.dumps(self.classes).encode() + table.tobytes()).hexdigest()[:16]

    def read(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The encoded bytes of the given samples, uint8.

        Raises:
            DataError: a file cannot be read, or is shorter than the index says.
        """
        return [self._read(number) for number in numbers]

    def name(self, number: int) -> str:
        """What to call a sample in a message: its file, and its place in it."""
        index = self._index
        file = self.path / self._files[index.shard[number]]
        return (
            str(file)
            if self._plain
            else f"{file}, sample {number}, bytes {index.offset[number]}+{index.length[number]}"
        )

    def _read(self, number: int) -> np.ndarray:
        index = self._index
        length = int(index.length[number])
        try:
            # Opened for each read: 11 microseconds in all for a small cached image, and no open files to keep count of.
            descriptor = os.open(self.path / self._files[index.shard[number]], os.O_RDONLY)
            try:
                data = os.pread(descriptor, length, int(index.offset[number]))
                changed = len(data) != length or (self._plain and os.fstat(descriptor).st_size != length)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{self.name(number)}: cannot be read ({error.strerror})") from None
        if changed:
            remedy = f"remove {self.path / '.hvd_imagenet'}" if self._plain else "make the data set again"
            raise DataError(f"{self.name(number)}: the file has changed since it was indexed; {remedy}")
        return np.frombuffer(data, np.uint8)


def open_store(path: str | Path, split: str) -> Store:
    """Open the ``train`` or ``val`` split of a data set; a plain folder is indexed the first time.

    Raises:
        DataError: nothing there, not a data set, or a damaged one.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give data.path the folder of a data set")
    if not any(root.iterdir()):
        raise DataError(f"{root}: the folder is empty; give data.path the folder of a data set")
    if (root / "dataset.json").exists():
        return _open_packed(root, split)
    return Store(root, *folder_index.open_or_make(root, split), plain=True)


def _open_packed(root: Path, split: str) -> Store:
    try:
        description = json.loads((root / "dataset.json").read_text())
        version, classes = description["format"], list(map(str, description["classes"]))
        shards = list(map(str, description["splits"][split]["shards"]))
        samples = int(description["splits"][split]["samples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{root / 'dataset.json'}: unreadable ({error!r}); make the data set again") from None
    if version != FORMAT:
        raise DataError(f"{root}: packed in format {version}, this version reads {FORMAT}; pack it again")
    index = SplitIndex.load(root / split / "index.npz")
    fits = len(index) == samples and samples > 0 and index.label.min() >= 0
    if not fits or index.label.max() >= len(classes) or index.shard.max() >= len(shards):
        raise DataError(f"{root / split / 'index.npz'}: does not fit dataset.json; make the data set again")
    ends = np.zeros(len(shards), np.uint64)
    np.maximum.at(ends, index.shard, index.offset + index.length)
    for shard, end in zip(shards, ends, strict=True):
        if not (root / shard).exists() or (root / shard).stat().st_size < end:
            raise DataError(f"{root / shard}: missing or cut short; make the data set again")
    return Store(root, classes, index, shards, plain=False)
