"""The webdataset package: tars read from front to back, then the same as in a PyTorch DataLoader with PIL."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import torch
import webdataset

from hvd_imagenet.bench.loaders import Task
from hvd_imagenet.bench.loaders.torch_pil import normalised

SHUFFLED = 100  # samples that are mixed


def batches(task: Task) -> Iterator[torch.Tensor]:
    def decoded(encoded: bytes) -> torch.Tensor:
        return normalised(BytesIO(encoded), task.antialiased)

    photos = webdataset.WebDataset(task.shards, resampled=True, shardshuffle=False).shuffle(SHUFFLED)
    photos = photos.to_tuple("jpg", "cls").map_tuple(decoded, int).batched(task.batch)
    for images, _ in webdataset.WebLoader(photos, batch_size=None, num_workers=task.threads):
        yield images
