"""One image by PIL, as torchvision's RandomResizedCrop and RandomHorizontalFlip do it."""

from __future__ import annotations

import math
import random
from typing import BinaryIO

import numpy as np
from PIL import Image

from hvd_imagenet.bench.loaders import AREA, ATTEMPTS, IMAGE_SIZE, RATIO

SIZE = (IMAGE_SIZE, IMAGE_SIZE)


def cropped(file: BinaryIO | str, antialiased: bool) -> np.ndarray:
    """A random-resized crop, flipped at random: uint8, shape (224, 224, 3)."""
    image = Image.open(file).convert("RGB")
    left, top, width, height = window(*image.size)
    box = (left, top, left + width, top + height)
    if antialiased:
        image = image.crop(box).resize(SIZE, Image.Resampling.BILINEAR)
    else:
        image = image.transform(SIZE, Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(image)


def window(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of an image of that size; the whole where none fits."""
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    return 0, 0, width, height
