"""The index of a split: where each sample's bytes are, and what is known of it without decoding."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hvd_imagenet.data.packing.images import Unusable, opened
from hvd_imagenet.errors import DataError

AT_ONCE = 2**18  # samples


@dataclass(frozen=True)
class SplitIndex:
    """One row per sample, in the order of the sample numbers; every array has shape (samples,).

    Attributes:
        shard: number of the file that holds the sample.
        offset, length: where its bytes are in that file.
        label: class number.
        height, width: of the encoded image, in pixels, before any rotation that its EXIF data asks for.
    """

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    height: np.ndarray
    width: np.ndarray

    TYPES = {
        "shard": np.uint32,
        "offset": np.uint64,
        "length": np.uint32,
        "label": np.int32,
        "height": np.uint32,
        "width": np.uint32,
    }

    @classmethod
    def from_rows(cls, rows: list[tuple[int, int, int, int, int, int]]) -> SplitIndex:
        """An index of rows in the order of the attributes."""
        return cls.from_columns(*map(np.array, zip(*rows, strict=True)))

    @classmethod
    def from_columns(cls, *columns: np.ndarray) -> SplitIndex:
        """An index of columns in the order of the attributes."""
        return cls(*(column.astype(kind) for column, kind in zip(columns, cls.TYPES.values(), strict=True)))

    def __len__(self) -> int:
        return len(self.label)

    def sizes(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Heights and widths of the given samples, int64, shape (n, 2)."""
        return np.stack([self.height[numbers], self.width[numbers]], 1).astype(np.int64)

    def parts(self) -> Iterator[slice]:
        """All samples, a part at a time: of a large index, no whole column fits into memory."""
        return (slice(start, start + AT_ONCE) for start in range(0, len(self), AT_ONCE))

    def contents(self, classes: list[str]) -> str:
        """A short checksum: of the classes, and of each sample's label, length and size, in their order."""
        digest = hashlib.sha256(json.dumps(classes).encode())
        for part in self.parts():
            digest.update(np.column_stack([self.label[part], self.length[part], self.sizes(part)]).astype("<i8"))
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> SplitIndex:
        """Map an index into memory: its pages are read when they are used, once for all processes of a host.

        28 bytes per sample: 36 MB for ImageNet, 28 GB for a billion samples, of which a run holds no more than the
        system finds room for.

        Raises:
            DataError: the file is missing, damaged or not an index.
        """
        try:
            arrays = _mapped(path)
            index = cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: unreadable index ({error}); make the data set again") from None
        right = all(getattr(index, name).dtype == kind for name, kind in cls.TYPES.items())
        if not right or len({getattr(index, name).shape for name in cls.TYPES}) != 1 or index.label.ndim != 1:
            raise DataError(f"{path}: unreadable index (columns do not fit together); make the data set again")
        return index


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed .npz file, memory-mapped, which ``numpy.load`` offers for .npy files only."""
    arrays = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("compressed")
            file.seek(member.header_offset)
            name_length, extra_length = struct.unpack("<26xHH", file.read(30))
            file.seek(name_length + extra_length, 1)
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            arrays[member.filename.removesuffix(".npy")] = np.memmap(path, kind, "r", file.tell(), shape)
    return arrays


def image_size(path: Path) -> tuple[int, int]:
    """Height and width that an image's file states in its header; no more than the header is read.

    Raises:
        DataError: it has no readable header, or is of a format that is not decoded.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            image, _ = opened(file)
            return image.height, image.width
    except Unusable as error:
        raise DataError(f"{path}: {error}; repair or remove it") from None
