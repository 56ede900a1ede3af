"""DALI's own pipeline for ImageNet: its file reader, its random crop, its settings as they come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from hvd_imagenet.bench.loaders import AREA, IMAGE_SIZE, MEAN, RATIO, STD, Task


@pipeline_def(device_id=None)
def graph(folder: str, antialiased: bool):
    encoded, labels = fn.readers.file(file_root=f"{folder}/train", random_shuffle=True, pad_last_batch=True)
    crop = {"random_area": AREA, "random_aspect_ratio": RATIO}
    images = fn.decoders.image_random_crop(encoded, device="cpu", adjust_orientation=False, **crop)
    images = fn.resize(images, size=[IMAGE_SIZE] * 2, interp_type=types.INTERP_LINEAR, antialias=antialiased)
    images = fn.crop_mirror_normalize(
        images,
        mean=[255 * value for value in MEAN],
        std=[255 * value for value in STD],
        dtype=types.FLOAT,
        output_layout="HWC",
        mirror=fn.random.coin_flip(),
    )
    return images, labels


def batches(task: Task) -> Iterator[np.ndarray]:
    pipeline = graph(task.folder, task.antialiased, batch_size=task.batch, num_threads=task.threads)
    pipeline.build()
    while True:
        images, _ = pipeline.run()
        yield np.asarray(images.as_tensor())
