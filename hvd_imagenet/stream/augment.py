"""Which part of each image is taken: decided here, not by DALI.

Augmentation is a function of (seed, epoch, position in the epoch): crop windows and flips. Every position of an epoch
owns a fixed number of draws, so that any part of a step can be drawn by any worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hvd_imagenet.stream import philox

AREA = (0.08, 1.0)  # of the image, section 5.1: GoogLeNet's augmentation
RATIO = (3 / 4, 4 / 3)  # width / height
ATTEMPTS = 10
PADDING = 4  # pixels on each side, for shift_crop


class Windows(NamedTuple):
    """The part of each image that is taken, in pixels of the encoded image.

    Attributes:
        anchor: top and left, int64, shape (n, 2); negative or beyond the image where the window includes padding.
        shape: height and width, int64, shape (n, 2).
        mirror: flip left and right, bool, shape (n,).
    """

    anchor: np.ndarray
    shape: np.ndarray
    mirror: np.ndarray


def _draws(seed: int, epoch: int, position: int, count: int, each: int) -> np.ndarray:
    """Raw numbers of shape (count, each) for the positions from `position` on; `each` is whole generator blocks."""
    start = position * each // philox.BLOCK
    return philox.raw(seed, f"augment/{epoch}", start, count * each).reshape(count, each)


def random_resized_crop(seed: int, epoch: int, position: int, sizes: np.ndarray) -> Windows:
    """Windows of random area and aspect ratio, and a flip (section 5.1), by the rules of torchvision.

    Ten attempts at an area and a ratio; the first that fits the image is placed at random; if none fits, the
    centre at the nearest allowed ratio is taken.

    Args:
        seed, epoch, position: where in the stream the images stand; they follow each other from `position` on.
        sizes: heights and widths of the images, shape (n, 2).
    """
    draws = _draws(seed, epoch, position, len(sizes), 2 * ATTEMPTS + philox.BLOCK)
    height, width = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)

    u = philox.uniform(draws[:, : 2 * ATTEMPTS])
    area = (height * width)[:, None] * (AREA[0] + (AREA[1] - AREA[0]) * u[:, :ATTEMPTS])
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = np.exp(low + (high - low) * u[:, ATTEMPTS:])
    w = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    h = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first, rows = fits.argmax(1), np.arange(len(sizes))
    shape = np.stack([h[rows, first], w[rows, first]], 1)
    room = np.maximum(0, sizes - shape)
    anchor = philox.below(draws[:, 2 * ATTEMPTS : 2 * ATTEMPTS + 2], room + 1)

    none_fits = ~fits.any(1)
    shape[none_fits] = _nearest_ratio(sizes[none_fits])
    anchor[none_fits] = (sizes[none_fits] - shape[none_fits]) // 2
    return Windows(anchor, shape, _coin(draws[:, -1]))


def _nearest_ratio(sizes: np.ndarray) -> np.ndarray:
    """The largest shape inside each image whose width / height lies in RATIO; height and width, shape (n, 2)."""
    height, width = sizes[:, 0], sizes[:, 1]
    ratio = width / height
    h = np.where(ratio < RATIO[0], np.rint(width / RATIO[0]), height)
    w = np.where(ratio > RATIO[1], np.rint(height * RATIO[1]), width)
    return np.maximum(1, np.minimum(np.stack([h, w], 1), sizes)).astype(np.int64)


def shift_crop(seed: int, epoch: int, position: int, sizes: np.ndarray) -> Windows:
    """Windows of the image's own size out of the image padded by 4 pixels on each side, and a flip; for small images.

    Arguments as for `random_resized_crop`. Anchors lie between -4 and 4.
    """
    draws = _draws(seed, epoch, position, len(sizes), philox.BLOCK)
    anchor = philox.below(draws[:, :2], 2 * PADDING + 1) - PADDING
    return Windows(anchor, sizes.astype(np.int64), _coin(draws[:, 2]))


class CentreCrops(NamedTuple):
    """Evaluation's part of each image, in pixels.

    Attributes:
        resized: height and width that the whole image is resized to, int64, shape (n, 2).
        anchor: top and left of the crop in the resized image, int64, shape (n, 2).
    """

    resized: np.ndarray
    anchor: np.ndarray


def centre_crops(sizes: np.ndarray, resize_shorter: int, crop: int) -> CentreCrops:
    """The shorter side to `resize_shorter`, then the central square of `crop` pixels; rounded as in torchvision."""
    shorter = sizes.min(1, keepdims=True)
    resized = resize_shorter * sizes // shorter
    return CentreCrops(resized, np.rint((resized - crop) / 2).astype(np.int64))


def _coin(numbers: np.ndarray) -> np.ndarray:
    return numbers >> np.uint64(63) == 1


def augmenter(kind: str) -> Callable[[int, int, int, np.ndarray], Windows] | None:
    """The function that draws the windows of an augmentation; None for `none`: centre crops, as in evaluation."""
    return {"random_resized_crop": random_resized_crop, "shift_crop": shift_crop, "none": None}[kind]
