"""What is asked for, batch by batch: which samples, and which part of each; pure window arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.store import Store
from hvd_imagenet.policy import LargeBatchPolicy, StepPlan
from hvd_imagenet.stream import SampleStream, Windows, augmenter, centre_crops, share


class Regions(NamedTuple):
    """Evaluation's part of each image: of a window, in pixels of the encoded image, a region between its pixels.

    Attributes:
        anchor, shape: of the window, all pixels that count; int64, shape (n, 2).
        start, end: of the region, measured from the anchor; float32, shape (n, 2).
    """

    anchor: np.ndarray
    shape: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Request(NamedTuple):
    """One batch as DALI is asked for it: sample numbers, shape (n,), and the part of each image that is taken."""

    numbers: np.ndarray
    crops: Windows | Regions


@dataclass(frozen=True)
class Worker:
    """Which part of the work is this worker's."""

    rank: int
    size: int


class TrainRequests:
    """The micro-batches of one worker along the sample stream.

    Args:
        store: the training set.
        policy: the plan of the run.
        stream: the order of the samples.
        augment: random_resized_crop, shift_crop or none.
        worker: whose micro-batches these are.
        decoding: what becomes of an image.
    """

    def __init__(
        self,
        store: Store,
        policy: LargeBatchPolicy,
        stream: SampleStream,
        augment: str,
        worker: Worker,
        decoding: Decoding,
    ):
        self.store = store
        self.policy = policy
        self.augmented = augment != "none"
        self._stream = stream
        self._augment = augmenter(augment)
        self._worker = worker
        self.decoding = decoding

    def share(self, plan: StepPlan) -> range:
        """The numbers of this worker's micro-batches of a step."""
        return range(*share(plan.micro_batches, self._worker.rank, self._worker.size))

    def from_(self, samples_seen: int) -> Iterator[Request]:
        """What is asked for, micro-batch by micro-batch, to the end of the run."""
        micro_batch = self.policy.micro_batch
        for plan in self.policy.steps(samples_seen):
            for number in self.share(plan):
                yield self._request(plan.samples_seen + number * micro_batch, micro_batch)

    def _request(self, start: int, count: int) -> Request:
        parts = list(self._stream.stretches(start, count))  # two where the micro-batch spans two epochs
        numbers = np.concatenate([part.numbers for part in parts])
        if not self._augment:
            return _centre_request(self.store, numbers, self.decoding)
        windows = [
            self._augment(self._stream.seed, part.epoch, part.position, self.store.sizes(part.numbers))
            for part in parts
        ]
        return Request(numbers, Windows(*map(np.concatenate, zip(*windows, strict=True))))


def evaluation_requests(store: Store, batch_size: int, worker: Worker, decoding: Decoding) -> Iterator[Request]:
    """This worker's part of a split, every sample of it once; the last batch may be short."""
    start, stop = share(len(store), worker.rank, worker.size)
    for first in range(start, stop, batch_size):
        yield _centre_request(store, np.arange(first, min(first + batch_size, stop)), decoding)


def _centre_request(store: Store, numbers: np.ndarray, decoding: Decoding) -> Request:
    sizes = store.sizes(numbers)
    resized, anchor = centre_crops(sizes, decoding.resize_shorter, decoding.image_size)
    scale = sizes / resized
    start, end = anchor * scale, (anchor + decoding.image_size) * scale
    reach = np.maximum(scale, 1) + 1  # of the resizing filter, and a pixel for the rounding
    low = np.maximum(np.floor(start - reach), 0).astype(np.int64)
    high = np.minimum(np.ceil(end + reach), sizes).astype(np.int64)
    return Request(numbers, Regions(low, high - low, (start - low).astype(np.float32), (end - low).astype(np.float32)))
