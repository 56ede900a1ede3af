"""This package's loader, as the trainer uses it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hvd_imagenet.bench.loaders import IMAGE_SIZE, MEAN, STD, Task
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.loader import TrainLoader
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.stream import GlobalOrder, SampleStream

ENDLESS = 10**6  # epochs


def batches(task: Task) -> Iterator[np.ndarray]:
    store = open_store(task.folder, "train")
    policy = LargeBatchPolicy(len(store), ENDLESS, BatchSettings(task.batch, task.batch), LearningRateSettings())
    decoding = Decoding(IMAGE_SIZE, MEAN, STD, IMAGE_SIZE, False, task.threads, None, antialiased=task.antialiased)
    stream = SampleStream(0, GlobalOrder(len(store)))
    loader = TrainLoader(TrainRequests(store, policy, stream, "random_resized_crop", Worker(0, 1), decoding))
    for plan in policy.steps():
        for batch in loader.micro_batches(plan):
            yield np.from_dlpack(batch.images)
