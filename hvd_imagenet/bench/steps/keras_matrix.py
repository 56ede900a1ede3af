"""A limit: products of large square matrices in TensorFlow, and nothing else; the amount is GFLOP."""

from __future__ import annotations

import tensorflow as tf

from hvd_imagenet.bench.steps import MATRIX, Task
from hvd_imagenet.bench.steps.keras_loop import prepared
from hvd_imagenet.bench.work import Work

DTYPES = {"float32": tf.float32, "bf16": tf.bfloat16, "float64": tf.float64}


class Products(Work):
    """Args: dtype: of the matrices."""

    def __init__(self, dtype: tf.DType):
        size = MATRIX["cuda" if tf.config.get_visible_devices("GPU") else "cpu"]
        self._factors = [tf.cast(tf.random.normal([size, size]), dtype) for _ in range(2)]
        self._product = self._factors[0]
        self.amount = 2e-9 * size**3

    def take(self, steps: int) -> None:
        for _ in range(steps):
            self._product = tf.linalg.matmul(*self._factors)

    def finish(self) -> None:
        self._product[0, 0].numpy()


def work(task: Task) -> Products:
    config = task.settings()
    prepared(config)
    return Products(DTYPES[config.precision])
