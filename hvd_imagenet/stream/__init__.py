"""Which sample, when, how cropped and by whom: pure functions of the seed."""

from hvd_imagenet.stream.augment import CentreCrops, Windows, augmenter, centre_crops
from hvd_imagenet.stream.order import BlockedOrder, GlobalOrder, Samples, SampleStream, shuffled
from hvd_imagenet.stream.share import share

__all__ = ["BlockedOrder", "CentreCrops", "GlobalOrder", "SampleStream", "Samples", "Windows", "augmenter"]
__all__ += ["centre_crops", "share", "shuffled"]
