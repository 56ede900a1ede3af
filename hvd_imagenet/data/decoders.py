"""From encoded images to batches: on a CPU, DALI decodes and `Resampler` goes on; on a GPU, DALI does all of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hvd_imagenet.backend import Batch
from hvd_imagenet.data import dali
from hvd_imagenet.data.requests import Request
from hvd_imagenet.data.resampling import Resampler


class OnHost:
    """Decodes on the CPU; also a context manager, which ends its threads.

    Args:
        source: yields `inputs`.
        batch_size: the largest.
        decoding: what becomes of each image.
    """

    def __init__(self, source: Iterator[tuple], batch_size: int, decoding: dali.Decoding):
        self._pipeline = dali.windows(source, batch_size, decoding)
        look = decoding.image_size, decoding.mean, decoding.std, decoding.antialiased
        self._resampler = Resampler(*look, decoding.threads)

    @staticmethod
    def inputs(request: Request, encoded: list[np.ndarray], labels: np.ndarray) -> tuple:
        return encoded, *_pixels(request)

    def run(self) -> tuple:
        """Decode the next batch.

        Raises:
            StopIteration: the source has ended.
            RuntimeError: an image cannot be decoded.
        """
        return self._pipeline.run()

    def batch(self, outputs: tuple, request: Request, labels: np.ndarray) -> Batch:
        """The batch that a request was for, from what `run` gave for it."""
        (windows,) = outputs
        addresses = np.array([window.data_ptr() for window in windows], np.uint64)
        _, shape, mirror = request.windows
        return Batch(self._resampler(addresses, shape, request.regions, mirror), labels)

    def __enter__(self) -> OnHost:
        return self

    def __exit__(self, *error: object) -> None:
        self._resampler.close()


class OnDevice:
    """Decodes on a GPU; the twin of `OnHost`."""

    def __init__(self, source: Iterator[tuple], batch_size: int, decoding: dali.Decoding):
        self._pipeline = dali.batches(source, batch_size, decoding)

    @staticmethod
    def inputs(request: Request, encoded: list[np.ndarray], labels: np.ndarray) -> tuple:
        start, end = (np.ascontiguousarray(corner, np.float32) for corner in np.split(request.regions, 2, axis=1))
        return encoded, *_pixels(request), start, end, request.windows.mirror.astype(np.int32), labels

    def run(self) -> tuple:
        return self._pipeline.run()

    def batch(self, outputs: tuple, request: Request, labels: np.ndarray) -> Batch:
        images, labels = outputs
        return Batch(images.as_tensor(), labels.as_tensor())

    def __enter__(self) -> OnDevice:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _pixels(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Anchor and shape of the windows, as DALI takes them."""
    return request.windows.anchor.astype(np.int32), request.windows.shape.astype(np.int32)
