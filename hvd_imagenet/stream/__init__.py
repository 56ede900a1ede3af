"""Which sample, when, how cropped and by whom: pure functions of the seed."""

from hvd_imagenet.stream.augment import CentreCrops, Windows, augmenter, centre_crops
from hvd_imagenet.stream.order import Samples, SampleStream, shuffled
from hvd_imagenet.stream.share import share

__all__ = ["CentreCrops", "SampleStream", "Samples", "Windows", "augmenter", "centre_crops", "share", "shuffled"]
