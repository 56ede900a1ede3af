"""Fashion-MNIST (Xiao et al. 2017) from its IDX files: 60,000 + 10,000 grey images of 28 x 28, 10 classes."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from hvd_imagenet.data.sources import Item
from hvd_imagenet.errors import DataError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's and Ubuntu's package dataset-fashion-mnist
CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PREFIXES = {"train": "train", "val": "t10k"}
QUALITY = 95


class FashionMnist:
    """The data set as JPEGs.

    Args:
        folder: holds the four ``*-ubyte.gz`` files (or the same unpacked).

    Raises:
        DataError: a file is missing or is not what its name says.
    """

    classes = CLASSES

    def __init__(self, folder: Path = DEBIAN_FOLDER):
        self.description = "Fashion-MNIST"
        self.reader = FashionMnistReader(folder)
        self.splits = {}
        for split, prefix in PREFIXES.items():
            images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
            labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
            if len(images) != len(labels) or labels.max(initial=0) >= len(CLASSES):
                raise DataError(f"{folder}: images and labels of {prefix} do not belong together")
            self.splits[split] = [
                Item(f"{split}[{number}].jpg", label, images[0].nbytes, (split, number))
                for number, label in enumerate(labels.tolist())
            ]


class FashionMnistReader:
    """Reads items as JPEGs from IDX files; their place is (split, number)."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __call__(self, item: Item) -> bytes:
        split, number = item.place
        buffer = io.BytesIO()
        Image.fromarray(_images(self._folder, split)[number]).save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def file(self, item: Item) -> Path:
        packed, plain = _files(self._folder, f"{PREFIXES[item.place[0]]}-images-idx3-ubyte")
        return packed if packed.exists() else plain


@functools.lru_cache(maxsize=1)
def _images(folder: Path, split: str) -> np.ndarray:
    return _read_idx(folder, f"{PREFIXES[split]}-images-idx3-ubyte", 3)


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    """Where an IDX file may be, packed or not."""
    return folder / f"{name}.gz", folder / name


def _read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """An IDX file of bytes: two zeros, type 8, the number of dimensions, each as big-endian 32 bits, then the bytes."""
    packed, plain = _files(folder, name)
    try:
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{packed}: not found; run: apt-get install dataset-fashion-mnist, or name the files' folder with --idx-dir"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{packed}: cannot be read ({error})") from None
    header = 4 + 4 * dimensions
    if len(data) >= header and data[:4] == bytes([0, 0, 8, dimensions]):
        shape = struct.unpack(f">{dimensions}I", data[4:header])
        if len(data) - header == np.prod(shape):
            return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
    raise DataError(f"{packed}: not an IDX file of {dimensions} dimensions, or cut short; fetch it again")
