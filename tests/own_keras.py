"""Networks of a user's own in Keras, good and bad: what tests have as their ``mine.py``."""

import keras
from keras import layers


def net(width=8, classes=4, dropout=0.0):
    return keras.Sequential(
        [
            layers.Conv2D(width, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.7),
            layers.ReLU(),
            layers.Dropout(dropout),
            layers.Conv2D(width, 3),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes),
        ]
    )


class Counting(keras.Model):
    def __init__(self):
        super().__init__()
        self.net = net()
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.frozen = layers.Dense(4, trainable=False, name="frozen")
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", dtype="int64", trainable=False)
        self.largest = self.add_weight(name="largest", shape=(1,), initializer="zeros", trainable=False)

    def call(self, images, training=False):
        if training:
            self.calls.assign_add(1)
            self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(keras.ops.abs(images))))
        return self.frozen(self.net(images, training=training)) * self.scale


def no_norm():
    return keras.Sequential([layers.Flatten(), layers.Dense(4)])


def probabilities():
    return keras.Sequential([net(), layers.Softmax()])


def maps():
    return keras.Sequential([layers.Conv2D(4, 3)])


def pair():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = net()

        def call(self, images, training=False):
            return (self.net(images),) if training else self.net(images)

    return Pair()


def too_small():
    return keras.Sequential([layers.MaxPooling2D(16), net()])


def frozen():
    network = net()
    network.trainable = False
    return network


def layer():
    return layers.Dense(4)


def part(channels, width):
    images = keras.Input((8, 8, channels))
    return keras.Model(images, layers.BatchNormalization(name="norm")(layers.Conv2D(width, 1, name="conv")(images)))


def nested():
    images = keras.Input((8, 8, 3))
    x = layers.ReLU()(part(4, 5)(part(3, 4)(images)))
    return keras.Model(images, layers.Dense(4)(layers.Dense(8)(layers.GlobalAveragePooling2D()(x))))


def frozen_norm():
    return keras.Sequential([layers.BatchNormalization(trainable=False), layers.Flatten(), layers.Dense(4)])


def fails(depth=1):
    raise RuntimeError("there is no\nsuch file")


number = 4


def half_precision():
    return keras.Sequential([layers.Flatten(), layers.Dense(4, name="half", dtype="bfloat16")])


class Transposed(layers.Layer):
    """Another layer's kernel, transposed."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def build(self, shape):
        self.kernel = self.other.kernel

    def call(self, x):
        return x @ keras.ops.transpose(self.kernel)


def tied():
    images = keras.Input((8, 8, 3))
    dense = layers.Dense(5, use_bias=False, name="dense")
    x = dense(layers.Dense(6, name="first")(layers.GlobalAveragePooling2D()(images)))
    return keras.Model(images, layers.Dense(4, name="last")(Transposed(dense)(x)))


def norm_first():
    """Batch normalisation of the images themselves."""
    return keras.Sequential([layers.BatchNormalization(epsilon=1e-5), layers.Flatten(), layers.Dense(4)])


class Remembering(layers.Layer):
    """Adds what it has seen in training to what it passes on."""

    def build(self, shape):
        self.seen = self.add_weight(name="seen", shape=(3,), initializer="zeros", trainable=False)

    def call(self, images, training=False):
        if training:
            self.seen.assign_add(keras.ops.mean(images, (0, 1, 2)))
        return images + self.seen


def remembering():
    return keras.Sequential([Remembering(), layers.Dropout(0.5), net()])


def half_frozen():
    """One layer of batch normalisation that is frozen, and one that is not."""
    first, second = layers.BatchNormalization(trainable=False), layers.BatchNormalization()
    return keras.Sequential([layers.Conv2D(4, 3), first, second, layers.Flatten(), layers.Dense(4)])
