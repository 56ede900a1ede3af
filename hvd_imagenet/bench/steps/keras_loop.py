"""A loop written by hand in Keras, on TensorFlow: what a good engineer writes for one worker."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras.layers import BatchNormalization

from hvd_imagenet.bench.steps import RATE, Task, made_up
from hvd_imagenet.bench.work import Work
from hvd_imagenet.config import Config
from hvd_imagenet.keras.device import choose_device, set_threads
from hvd_imagenet.keras.model import build
from hvd_imagenet.keras.names import layers_of
from hvd_imagenet.memory import keep_memory


class Loop(Work):
    """One function of TensorFlow's: forward, backward, and Keras's SGD; nothing is counted."""

    def __init__(self, config: Config, parts: int):
        prepared(config)
        self._parts = parts
        self.amount = parts * config.batch.micro_size
        images, labels = made_up(config)
        self._images = tf.constant(images, keras.config.floatx())
        self._labels = tf.constant(labels)
        self._model = build(config.model, config.data.image_size, config.seed)
        settings = config.optimizer
        decay = settings.weight_decay or None
        self._optimizer = keras.optimizers.SGD(RATE, settings.momentum, settings.nesterov, weight_decay=decay)
        norms = [layer for _, layer in layers_of(self._model, BatchNormalization)]
        self._optimizer.exclude_from_weight_decay([v for layer in norms for v in layer.trainable_variables])
        self._optimizer.build(self._model.trainable_variables)
        self._step = tf.function(self._step, jit_compile=False)
        self._loss = tf.zeros([])

    def take(self, steps: int) -> None:
        for _ in range(steps):
            self._loss = self._step(self._images, self._labels)

    def finish(self) -> None:
        float(self._loss)

    def _step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        variables = [variable.value for variable in self._model.trainable_variables]
        gradients = []
        for _ in range(self._parts):
            with tf.GradientTape() as tape:
                scores = tf.cast(self._model(images, training=True), keras.config.floatx())
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)) / self._parts
            gradients.append(tape.gradient(loss, variables))
        self._optimizer.apply([tf.add_n(each) for each in zip(*gradients, strict=True)])
        return loss


def prepared(config: Config) -> None:
    """Threads, memory, device and precision of a process, as the trainer has them."""
    set_threads(1)
    device_id, _ = choose_device(0)
    if device_id is None:
        keep_memory()
    double = config.precision == "float64"
    keras.config.set_floatx("float64" if double else "float32")
    keras.config.set_dtype_policy("mixed_bfloat16" if config.precision == "bf16" else keras.config.floatx())


def work(task: Task) -> Loop:
    return Loop(task.settings(), task.micro_batches)
