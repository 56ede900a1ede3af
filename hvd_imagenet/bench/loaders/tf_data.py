"""tf.data, which decodes no more of a JPEG than the crop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from hvd_imagenet.bench.loaders import AREA, ATTEMPTS, IMAGE_SIZE, MEAN, RATIO, STD, Task


def batches(task: Task) -> Iterator[tf.Tensor]:
    files = [str(file) for file in sorted(Path(task.folder, "train").glob("*/*"))]

    def decoded(file: tf.Tensor) -> tf.Tensor:
        encoded = tf.io.read_file(file)
        crop = window(tf.image.extract_jpeg_shape(encoded)[:2])
        image = tf.image.decode_and_crop_jpeg(encoded, crop, channels=3, dct_method="INTEGER_ACCURATE")
        image = tf.image.resize(image, [IMAGE_SIZE] * 2, antialias=task.antialiased)
        image = tf.image.random_flip_left_right(image)
        return (image - 255 * tf.constant(MEAN)) / (255 * tf.constant(STD))

    options = tf.data.Options()
    options.threading.private_threadpool_size = task.threads
    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    dataset = dataset.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).batch(task.batch)
    yield from dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def window(shape: tf.Tensor) -> tf.Tensor:
    """Top, left, height and width of a random part of an image of that height and width, by torchvision's rule.

    TensorFlow's own, ``sample_distorted_bounding_box``, takes smaller parts: 15 % less area of a usual photo.
    """
    area = tf.cast(tf.reduce_prod(shape), tf.float32) * tf.random.uniform([ATTEMPTS], *AREA)
    ratio = tf.exp(tf.random.uniform([ATTEMPTS], *map(math.log, RATIO)))
    sizes = tf.cast(tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], 1))), tf.int32)
    fits = tf.reduce_all((sizes > 0) & (sizes <= shape), 1)
    size = tf.where(tf.reduce_any(fits), sizes[tf.argmax(tf.cast(fits, tf.int32))], shape)
    corner = tf.random.uniform([2]) * tf.cast(shape - size + 1, tf.float32)
    return tf.concat([tf.cast(corner, tf.int32), size], 0)
