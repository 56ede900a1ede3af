"""The settings of the images and of their order."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hvd_imagenet.policy.settings import is_positive, require


@dataclass(frozen=True)
class DecoderSettings:
    """DALI's image decoder, by its own names. All but use_fast_idct only make a difference on a GPU.

    Args:
        hw_decoder_load: part of each micro-batch, from 0 to 1, that the GPU's JPEG hardware decodes, where it has any
            (A100, H100 and their like); the rest is shared by the CPU's threads and the GPU's cores.
        preallocate_width_hint: width of the largest image, in pixels, for which that hardware's memory is reserved at
            the start; 0: reserved as images come, with a pause whenever one is larger than all before.
        preallocate_height_hint: height of that image, in pixels.
        device_memory_padding: bytes of GPU memory that each decoding thread reserves at the start, for the same reason.
        host_memory_padding: bytes of the host's memory, twice for each decoding thread.
        use_fast_idct: decode faster on the CPU, with pixels that are off by 1.2 of 255 on average.
    """

    hw_decoder_load: float = 0.65
    preallocate_width_hint: int = 0
    preallocate_height_hint: int = 0
    device_memory_padding: int = 16 * 2**20
    host_memory_padding: int = 8 * 2**20
    use_fast_idct: bool = False

    def __post_init__(self):
        require(0 <= self.hw_decoder_load <= 1, "data.decoder.hw_decoder_load", self.hw_decoder_load,
                "give a number from 0 to 1")  # fmt: skip
        for name in ("preallocate_width_hint", "preallocate_height_hint"):
            require(getattr(self, name) >= 0, f"data.decoder.{name}", getattr(self, name),
                    "give a number of pixels, or 0")  # fmt: skip
        for name in ("device_memory_padding", "host_memory_padding"):
            require(getattr(self, name) >= 0, f"data.decoder.{name}", getattr(self, name),
                    "give a number of bytes, or 0")  # fmt: skip


@dataclass(frozen=True)
class DataSettings:
    """The images.

    Args:
        path: folder of a packed data set, or of train/CLASS/* and val/CLASS/*, or URL of a packed set (s3://, gs://,
            hf://, https://, ...). Needed to train.
        train_samples: size of the training set, so that a run can be planned without the data; checked against it.
        image_size: height and width that the network sees, in pixels.
        augment: random_resized_crop: a crop of random area and ratio, flipped at random (section 5.1);
            shift_crop: moved by up to 4 pixels, flipped at random, for small images; none: as in evaluation.
        evaluation_resize: shorter side before the centre crop of evaluation, in pixels; null: 256/224 of image_size
            with random_resized_crop, image_size otherwise.
        mean: per colour, on the scale of 0 to 1, subtracted from the images.
        std: per colour, what the images are divided by after that.
        threads: decoding threads of each worker; null: the cores of the host divided by its workers.
        decoder: DALI's image decoder.
        cache_dir: folder on a disk of each host for the shards of a data set at a URL; null: hvd_imagenet-UID in
            $TMPDIR, or in /var/tmp where that is not set.
        cache_gib: how much that folder may hold, in GiB, for all jobs of the host together.
    """

    path: str | None = None
    train_samples: int | None = None
    image_size: int = 224
    augment: Literal["random_resized_crop", "shift_crop", "none"] = "random_resized_crop"
    evaluation_resize: int | None = None
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    threads: int | None = None
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    cache_dir: str | None = None
    cache_gib: float = 64

    def __post_init__(self):
        require(self.path != "", "data.path", "empty", "give the folder of a data set")
        require(self.cache_dir != "", "data.cache_dir", "empty", "give a folder on a disk of each host, or null")
        require(is_positive(self.cache_gib), "data.cache_gib", self.cache_gib, "give a number of GiB above 0")
        require(self.train_samples is None or self.train_samples > 0, "data.train_samples", self.train_samples,
                "give the number of training samples, above 0")  # fmt: skip
        require(self.image_size > 0, "data.image_size", self.image_size, "give a number of pixels above 0")
        require(self.evaluation_resize is None or self.evaluation_resize >= self.image_size, "data.evaluation_resize",
                self.evaluation_resize, f"must be at least data.image_size ({self.image_size})")  # fmt: skip
        right = len(self.mean) == 3 and all(map(math.isfinite, self.mean))
        require(right, "data.mean", self.mean, "give three numbers: red, green, blue")
        right = len(self.std) == 3 and all(map(is_positive, self.std))
        require(right, "data.std", self.std, "give three numbers above 0")
        require(self.threads is None or self.threads > 0, "data.threads", self.threads, "give a number above 0")

    def resize_shorter(self) -> int:
        """Length of the shorter side before evaluation's centre crop, in pixels."""
        if self.evaluation_resize is not None:
            return self.evaluation_resize
        return round(self.image_size * 256 / 224) if self.augment == "random_resized_crop" else self.image_size


@dataclass(frozen=True)
class StreamSettings:
    """The order of the training images.

    Args:
        shuffle: global: each epoch is a shuffle of all images; blocked: each epoch the shards are shuffled, and then
            the images of each window of them, so that a shard is read once per epoch, and memory holds a window's
            order instead of an epoch's. Of a plain folder, each file is a shard.
        window: shards whose images are shuffled together, with blocked.
    """

    shuffle: Literal["global", "blocked"] = "global"
    window: int = 16

    def __post_init__(self):
        require(self.window > 0, "stream.window", self.window, "give a number of shards above 0")
