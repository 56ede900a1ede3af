"""What becomes of decoded windows on a CPU: resized as Pillow does it, mirrored and normalised, in ``resample.c``."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
from numpy.ctypeslib import ndpointer

from hvd_imagenet.errors import SettingsError


def _compiled() -> ctypes.CDLL:
    found = find_spec("hvd_imagenet.data._resample")
    if found is None:
        raise SettingsError("hvd_imagenet is not installed here: its compiled part is missing; run: pip install .")
    library = ctypes.CDLL(found.origin)
    arrays = (np.uint64, 1), (np.int64, 2), (np.float64, 2), (np.bool_, 1)
    library.resample_images.argtypes = [
        ctypes.c_int64,
        *(ndpointer(dtype, dimensions, flags="C") for dtype, dimensions in arrays),
        ctypes.c_int,
        ctypes.c_int,
        ndpointer(np.float32, 2, (3, 256), "C"),
        ndpointer(np.float32, 4, flags="C,W"),
    ]
    return library


class Resampler:
    """Resizes, mirrors and normalises batches of images; to be closed.

    Args:
        image_size: height and width of the output, pixels.
        mean, std: per colour, on the scale of 0 to 1; the output is (image / 255 - mean) / std.
        antialiased: resizing averages over the source pixels when it shrinks, as in PIL and torchvision.
        threads: of its own.

    Raises:
        SettingsError: the compiled part is missing.
    """

    def __init__(
        self,
        image_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        antialiased: bool,
        threads: int,
    ):
        self._image_size = image_size
        self._antialiased = antialiased
        self._table = ((np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)
        self._library = _compiled()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "resize")

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown()

    def __call__(self, addresses: np.ndarray, sizes: np.ndarray, regions: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """The images of a batch, float32, shape (n, image_size, image_size, 3).

        Args:
            addresses: where each image lies, uint64, shape (n,); RGB, 8 bits, without gaps.
            sizes: heights and widths, int64, shape (n, 2).
            regions: top, left, bottom and right of what is resized, in pixels, float64, shape (n, 4). As in Pillow, the
                filter sees what is around it, too.
            mirror: flip left and right, bool, shape (n,).
        """
        out = np.empty((len(addresses), self._image_size, self._image_size, 3), np.float32)
        given = addresses, sizes, regions, mirror
        bounds = np.linspace(0, len(addresses), self._threads + 1).astype(int)
        parts = [slice(*ends) for ends in zip(bounds[:-1], bounds[1:], strict=True)]
        list(self._pool.map(lambda part: self._resample(*(array[part] for array in given), out[part]), parts))
        return out

    def _resample(self, addresses, sizes, regions, mirror, out) -> None:
        options = self._antialiased, self._image_size, self._table
        if self._library.resample_images(len(addresses), addresses, sizes, regions, mirror, *options, out):
            raise MemoryError("no memory to resize images in")
