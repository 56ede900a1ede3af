"""A limit: libjpeg-turbo decoding whole images, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import simplejpeg

from hvd_imagenet.bench.loaders import Task


def batches(task: Task) -> Iterator[list[np.ndarray]]:
    encoded = [file.read_bytes() for file in sorted(Path(task.folder, "train").glob("*/*"))]
    with ThreadPoolExecutor(task.threads) as pool:
        photos = cycle(encoded)
        while True:
            yield list(pool.map(simplejpeg.decode_jpeg, islice(photos, task.batch)))
