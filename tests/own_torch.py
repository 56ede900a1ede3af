"""Networks of a user's own in PyTorch, good and bad: what tests have as their ``mine.py``."""

import torch
from torch import nn


def net(width=8, classes=4, dropout=0.0):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width, momentum=0.3),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(width, width, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("largest", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, images):
        if self.training:
            self.calls += 1
            self.largest = torch.maximum(self.largest, images.abs().max())
        return self.frozen(self.net(images)) * self.scale


def no_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def probabilities():
    return nn.Sequential(net(), nn.Softmax(1))


def maps():
    return nn.Conv2d(3, 4, 3)


def pair():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, images):
            return (self.net(images),) if self.training else self.net(images)

    return Pair()


def too_small():
    return nn.Sequential(net(), nn.Linear(5, 4))


def frozen():
    return net().requires_grad_(False)


def layer():
    return torch.zeros(3)


def nested():
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), net_from(4), nn.Linear(8, 4))


def net_from(channels):
    conv = nn.Conv2d(channels, 8, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))


class Frozen(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


def frozen_norm():
    return nn.Sequential(Frozen(3).requires_grad_(False), nn.Flatten(), nn.Linear(192, 4))


def no_statistics():
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), net())


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def cumulative():
    return nn.Sequential(net(), nn.BatchNorm1d(4, momentum=None))


def fails(depth=1):
    raise RuntimeError("there is no\nsuch file")


number = 4


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.dense, self.last = nn.Linear(3, 6), nn.Linear(6, 5, bias=False), nn.Linear(6, 4)
        self.transposed = nn.Module()
        self.transposed.weight = self.dense.weight

    def forward(self, images):
        return self.last(self.dense(self.first(images.mean((2, 3)))) @ self.transposed.weight)


def tied():
    return Tied()


class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.dense = nn.Conv3d(3, 4, 1), nn.Linear(4, 4)

    def forward(self, images):
        return self.dense(self.conv(images[:, :, None]).mean((2, 3, 4)))


def norm_first():
    """Batch normalisation of the images themselves."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))


class Remembering(nn.Module):
    """Adds what it has seen in training to what it passes on, in a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, 1, 1), persistent=False)

    def forward(self, images):
        if self.training:
            self.seen = self.seen + images.mean((0, 2, 3))[:, None, None]
        return images + self.seen


def remembering():
    return nn.Sequential(Remembering(), nn.Dropout(0.5), net())


def statistics_of_batches_only():
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 4))
