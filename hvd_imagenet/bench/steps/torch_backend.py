"""PyTorch's backend, as it is and with a clock at the parts of a step."""

from __future__ import annotations

from typing import Any

import torch

from hvd_imagenet.backend import Batch
from hvd_imagenet.config import Config
from hvd_imagenet.torch.backend import Backend
from hvd_imagenet.torch.device import Moment


class Timed(Backend):
    """Remembers when forwards and updates begin and end; nothing else is different.

    Args:
        config: see `Backend`.
    """

    def __init__(self, config: Config):
        self._forwards: list[tuple[Moment, Moment]] = []
        self._updates: list[tuple[Moment, Moment]] = []
        super().__init__(config)
        self._forwards.clear()  # of those by which it may have found the best number of micro-batches in a forward
        self._update_begins = self._now()
        self._optimizer.register_step_pre_hook(self._before_update)

    def train_step(self, *arguments: Any, **named: Any) -> None:
        super().train_step(*arguments, **named)
        self._updates.append((self._update_begins, self._now()))

    def spans(self) -> tuple[float, float]:
        """Seconds of a step for its forwards, with the loss, and for its update, with that of running statistics; the
        mean of those since the last call."""
        steps = len(self._updates)
        forward, update = (sum(a.seconds_until(b) for a, b in of) / steps for of in (self._forwards, self._updates))
        self._forwards, self._updates = [], []
        return forward, update

    def _forward(self, batches: list[Batch], sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        start = self._now()
        result = super()._forward(batches, sums)
        self._forwards.append((start, self._now()))
        return result

    def _before_update(self, *_: Any) -> None:
        self._update_begins = self._now()


def placed(batch: Batch, device_id: int | None) -> Batch:
    """A batch of numpy's, on a device (None: the CPU)."""
    device = "cpu" if device_id is None else f"cuda:{device_id}"
    return Batch(*(torch.from_numpy(array).to(device) for array in batch))
