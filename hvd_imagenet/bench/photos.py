"""The photos that all contestants read: the same files, as class folders and as WebDataset tars."""

from __future__ import annotations

import io
import tarfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.errors import DataError

# What every contestant can read: JPEGs in colour or grey. A PNG under the name of a JPEG, or CMYK, ends some of them.
FORMAT, MODES = "JPEG", ("RGB", "L")


def chosen(path: Path, limit: int) -> tuple[Store, np.ndarray]:
    """The training set at `path`, and which of its samples are taken: all of them, or `limit` evenly from the whole.

    Raises:
        DataError: there is no data set.
    """
    store = open_store(path, "train")
    return store, np.linspace(0, len(store), min(limit, len(store)), endpoint=False).astype(np.int64)


def lay_out(store: Store, numbers: np.ndarray, folder: Path, shards: int) -> tuple[int, list[str]]:
    """Write these samples to ``FOLDER/train/CLASS/*.jpg`` and to so many tars.

    Returns:
        How many of them are photos for everybody, and the tars.

    Raises:
        DataError: none are.
    """
    taken, names = 0, [str(folder / f"shard-{number:03}.tar") for number in range(shards)]
    with ExitStack() as stack:
        tars = [stack.enter_context(tarfile.open(name, "w")) for name in names]
        for number in numbers.tolist():
            (encoded,) = store.read(np.array([number]))
            if _for_everybody(encoded):
                label = int(store.labels[number])
                file = folder / "train" / f"{label:05}" / f"{number:08}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encoded)
                _add(tars[taken % shards], f"{number:08}.jpg", bytes(encoded))
                _add(tars[taken % shards], f"{number:08}.cls", str(label).encode())
                taken += 1
    if taken < shards:
        raise DataError(f"{store.path}: {taken} JPEGs in colour or grey, fewer than threads; give it more photos")
    (folder / "val").symlink_to(folder / "train")  # as a data set has one
    return taken, names


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _for_everybody(encoded: np.ndarray) -> bool:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.format == FORMAT and image.mode in MODES
    except OSError:
        return False
