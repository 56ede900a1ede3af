"""tf.data, which decodes no more of a JPEG than the crop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from hvd_imagenet.bench.loaders import AREA, IMAGE_SIZE, MEAN, RATIO, STD, Task


def batches(task: Task) -> Iterator[tf.Tensor]:
    files = [str(file) for file in sorted(Path(task.folder, "train").glob("*/*"))]

    def decoded(file: tf.Tensor) -> tf.Tensor:
        encoded = tf.io.read_file(file)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(encoded),
            tf.zeros([1, 0, 4]),
            min_object_covered=0.0,
            aspect_ratio_range=RATIO,
            area_range=AREA,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE")
        image = tf.image.resize(image, [IMAGE_SIZE] * 2, antialias=task.antialiased)
        image = tf.image.random_flip_left_right(image)
        return (image - 255 * tf.constant(MEAN)) / (255 * tf.constant(STD))

    options = tf.data.Options()
    options.threading.private_threadpool_size = task.threads
    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    dataset = dataset.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).batch(task.batch)
    yield from dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
