"""Packing a source: WebDataset-compatible tar shards, an index for random access, and dataset.json."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hvd_imagenet.data.description import Description, Shard, Split
from hvd_imagenet.data.index import SplitIndex, image_size
from hvd_imagenet.data.sources import Encoded, Source
from hvd_imagenet.errors import DataError, SettingsError

SHARD_BYTES = 256 * 2**20
_TAR_HEADER = 512


def pack(source: Source, destination: Path, progress: Callable[[str, int], None] = lambda split, done: None) -> None:
    """Write a source as a packed data set; the folder appears whole or not at all.

    Args:
        destination: a folder that does not exist yet, or is empty.
        progress: called with the split and the number of its images written so far.

    Raises:
        SettingsError: the destination is in use.
        DataError: an image has no readable header, or the disk is full.
    """
    destination = destination.resolve()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise SettingsError(f"{destination}: exists and is not empty; name a new folder, or remove it")
    partial = destination.with_name(f"{destination.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise SettingsError(f"{destination}: cannot be made ({error.strerror}); name another folder") from None
    try:
        _write(source, partial, progress)
        partial.rename(destination)
    except OSError as error:
        raise DataError(f"{destination}: packing failed ({error}); nothing is left of it") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(source: Source, folder: Path, progress: Callable[[str, int], None]) -> None:
    splits = {}
    for split in source.counts:
        (folder / split).mkdir()
        writer = _ShardWriter(folder, split)
        for done, image in enumerate(source.images(split), 1):
            writer.add(image)
            progress(split, done)
        splits[split] = writer.close(source.classes)
    os.sync()
    Description(source.description, {}, source.classes, splits).save(folder)


class _ShardWriter:
    """Writes one split as tar files of about SHARD_BYTES, each sample as NUMBER.jpg and NUMBER.cls."""

    def __init__(self, root: Path, split: str):
        self._root, self._split = root, split
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._shards: list[str] = []
        self._tar: tarfile.TarFile | None = None

    def add(self, image: Encoded) -> None:
        height, width = image_size(io.BytesIO(image.data), image.name)
        if self._tar is None or self._tar.offset >= SHARD_BYTES:
            self._next_shard()
        offset = self._tar.offset + _TAR_HEADER
        key = f"{len(self._rows):08d}"
        extension = "png" if image.data.startswith(b"\x89PNG") else "jpg"
        self._member(f"{key}.{extension}", image.data)
        self._member(f"{key}.cls", str(image.label).encode())
        self._rows.append((len(self._shards) - 1, offset, len(image.data), image.label, height, width))

    def close(self, classes: list[str]) -> Split:
        """Finish the split; what dataset.json says of it."""
        if self._tar is not None:
            self._tar.close()
        path = self._root / self._split / "index.npz"
        index = SplitIndex.from_rows(self._rows)
        index.save(path)
        samples = np.bincount(index.shard).tolist()
        shards = [_shard(self._root, name, n) for name, n in zip(self._shards, samples, strict=True)]
        return Split(len(index), index.contents(classes), *_measured(path), shards)

    def _next_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
        self._shards.append(f"{self._split}/shard-{len(self._shards):06d}.tar")
        # USTAR: one header block before each member, whatever the platform, so that offsets can be told beforehand.
        self._tar = tarfile.open(self._root / self._shards[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def _member(self, name: str, data: bytes) -> None:
        header = tarfile.TarInfo(name)  # no times, owners or modes of this machine: equal input, equal bytes
        header.size = len(data)
        self._tar.addfile(header, io.BytesIO(data))


def _measured(path: Path) -> tuple[int, str]:
    """Length and checksum of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _shard(root: Path, name: str, samples: int) -> Shard:
    size, sha256 = _measured(root / name)
    return Shard(name, size, samples, sha256)
