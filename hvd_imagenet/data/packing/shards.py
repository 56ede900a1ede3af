"""One shard of a packed data set: its images read, checked and written, and a report of them; done by one process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hvd_imagenet.data.packing.examining import Report, Usable, usable
from hvd_imagenet.data.packing.images import Examined, shrunk
from hvd_imagenet.data.sources import Item, Reader
from hvd_imagenet.durable import flush_folder, write_whole

COUNT_SECONDS = 0.5  # between two notes of how many images are done
_TAR_HEADER = 512


@dataclass
class ShardReport(Report):
    """What has become of the items of a shard.

    Attributes:
        rows: of the index: of each image its offset, length, label, height and width; int64, shape (images, 5).
        bytes, sha256: of the shard; 0 and none where all its items were rejected, and there is no shard.
    """

    rows: np.ndarray = dataclasses.field(default_factory=lambda: _rows([]))
    bytes: int = 0
    sha256: str = ""

    def save(self, path: Path) -> None:
        fields = {**dataclasses.asdict(self), "rows": self.rows.tolist()}
        write_whole(path, json.dumps(fields).encode())

    @classmethod
    def load(cls, path: Path) -> ShardReport:
        fields = json.loads(path.read_text())
        return cls(**{**fields, "rows": _rows(fields["rows"])})


@dataclass(frozen=True)
class ShardTask:
    """Items, and the shard that they become.

    Attributes:
        reader, items: the images; first: the number of the first among those of its split.
        shard: the tar file to be written.
        report: where the report is written, last; it says that the shard is done.
        shorter_side, quality: see ``images.shrunk``; None: images stay as they are.
    """

    reader: Reader
    items: list[Item]
    first: int
    shard: Path
    report: Path
    shorter_side: int | None
    quality: int

    def finished(self) -> ShardReport | None:
        """The report of an earlier packing, if it and the shard are there."""
        try:
            report = ShardReport.load(self.report)
        except (OSError, ValueError, TypeError, KeyError):
            return None  # none, or damaged: the shard is written again
        whole = not report.bytes or (self.shard.exists() and self.shard.stat().st_size == report.bytes)
        return report if whole else None

    def counted(self) -> int:
        """How many images are done, as last noted while it goes on."""
        try:
            return int(self._count.read_text())
        except (OSError, ValueError):
            return 0

    def run(self) -> ShardReport:
        """Write the shard; what is left when that is cut short is written anew the next time.

        Raises:
            DataError: a source cannot be read.
            OSError: the shard cannot be written.
        """
        report = ShardReport()
        change = functools.partial(shrunk, shorter_side=self.shorter_side, quality=self.quality)
        images = usable(self.reader, self.items, report, change if self.shorter_side else None)
        self.shard.parent.mkdir(exist_ok=True)
        partial = self.shard.with_name(f"{self.shard.name}.{socket.gethostname()}-{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                self._write(file, self._noted(images), report)
                file.flush()
                os.fsync(file.fileno())
            if report.bytes:
                partial.rename(self.shard)
                flush_folder(self.shard.parent)
        finally:
            partial.unlink(missing_ok=True)
        report.save(self.report)
        self._count.unlink(missing_ok=True)
        return report

    @property
    def _count(self) -> Path:
        return self.report.with_suffix(".count")

    def _noted(self, images: Iterator[Usable]) -> Iterator[Usable]:
        noted = time.monotonic()
        for image in images:
            if time.monotonic() - noted > COUNT_SECONDS:
                self._count.write_text(str(image.number))
                noted = time.monotonic()
            yield image

    def _write(self, file: BinaryIO, images: Iterator[Usable], report: ShardReport) -> None:
        hashed = _Hashed(file)
        rows = []
        # USTAR: one header block before each member, whatever the platform, so that offsets can be told beforehand.
        with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, image in images:
                label = self.items[number].label
                rows.append((tar.offset + _TAR_HEADER, len(image.data), label, image.height, image.width))
                _add(tar, f"{self.first + number:08d}", image, label)
        if rows:
            report.rows, report.bytes, report.sha256 = _rows(rows), hashed.tell(), hashed.digest.hexdigest()


def _add(tar: tarfile.TarFile, key: str, image: Examined, label: int) -> None:
    for extension, data in ((image.extension, image.data), ("cls", str(label).encode())):
        header = tarfile.TarInfo(f"{key}.{extension}")  # no times, owners or modes: equal input, equal bytes
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))


def _rows(rows: list) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, 5)


class _Hashed:
    """A file to be written from its beginning to its end, with its checksum on the way."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()
