"""A PyTorch DataLoader with PIL and the steps of torchvision's transforms: what most training scripts have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch.utils.data import DataLoader, Dataset

from hvd_imagenet.bench.loaders import MEAN, STD, Task
from hvd_imagenet.bench.loaders.pil import cropped


class Photos(Dataset):
    """The images of class folders, with their class numbers."""

    def __init__(self, task: Task):
        self._files = sorted(Path(task.folder, "train").glob("*/*"))
        self._classes = sorted({file.parent.name for file in self._files})
        self._antialiased = task.antialiased

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        file = self._files[number]
        return normalised(str(file), self._antialiased), self._classes.index(file.parent.name)


def normalised(file: BinaryIO | str, antialiased: bool) -> torch.Tensor:
    """A random crop of an image as ToTensor and Normalize make it, but for the order of its axes."""
    image = torch.from_numpy(cropped(file, antialiased)).to(torch.float32).div(255)
    return image.clone().sub_(torch.tensor(MEAN)).div_(torch.tensor(STD))


def batches(task: Task) -> Iterator[torch.Tensor]:
    # Kept over the epochs: to start processes anew for a few hundred images would be most of the time.
    loader = DataLoader(
        Photos(task), task.batch, shuffle=True, drop_last=True, num_workers=task.threads, persistent_workers=True
    )
    while True:
        for images, _ in loader:
            yield images
