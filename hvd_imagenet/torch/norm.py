"""Batch normalisation whose running statistics are the step's, not a worker's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hvd_imagenet.torch.grouped import take_over


class StepStatistics:
    """Takes over the running statistics of a model's batch normalisation layers.

    A layer normalises over each micro-batch alone (section 2.3). Its buffers are views into one flat vector and,
    by a momentum of 1, hold the statistics of the last micro-batch; of a forward with several, each has such a vector.
    `add` sums them up over the micro-batches of a step; the sums of all workers, divided by the step's number of
    micro-batches, update the running statistics, each with its layer's own momentum: r <- (1 - a) r + a * sum / M.
    Averaging the workers' own running statistics instead is not the same once the workers' shares differ.

    Args:
        model: its layers are changed.
        micro_size: samples of a micro-batch.
        most: micro-batches of a forward.

    Attributes:
        sums: means and unbiased variances of this worker's micro-batches, summed; shape (channels * 2,).
        running: the running statistics, same layout.
    """

    def __init__(self, model: nn.Module, micro_size: int, most: int = 1):
        norms = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
        self._layers = [(name, layer) for name, layer in norms if layer.running_mean is not None]
        momenta = []
        for _, layer in self._layers:
            momenta += [layer.momentum] * 2 * layer.num_features
            layer.momentum = 1.0
            layer.num_batches_tracked = None  # nobody's; counting would cost an operation per layer
        like = next(model.parameters())
        self._momentum = torch.tensor(momenta, dtype=like.dtype, device=like.device)
        self._last = self._momentum.new_zeros(most, len(self._momentum))  # not empty: 0 times NaN is NaN
        self.sums = torch.zeros_like(self._momentum)
        by_micro_batch = zip(*map(self._views, self._last), strict=True)
        for (_, layer), statistics in zip(self._layers, by_micro_batch, strict=True):
            for kept, own in zip(statistics[0], (layer.running_mean, layer.running_var), strict=True):
                kept.copy_(own)
            layer.running_mean, layer.running_var = statistics[0]
            if most > 1:
                take_over(layer, micro_size, statistics)
        self.running = self._last[0].clone()

    def add(self, micro_batches: int = 1) -> None:
        """Add the statistics of as many micro-batches, which the last forward has normalised."""
        self.sums += self._last[:micro_batches].sum(0)

    def update(self, sums: torch.Tensor, micro_batches: int) -> None:
        """Take one step's sums over all its micro-batches into the running statistics."""
        self.running.lerp_(sums / micro_batches, self._momentum)

    def use_running(self) -> None:
        """Put the running statistics into the layers, for evaluation. The next forward in training replaces them."""
        self.use(self.running)

    def use(self, statistics: torch.Tensor) -> None:
        """Put other statistics, of the same layout, into the layers, until `use_running`."""
        self._last[0] = statistics

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Neutral name and view of each running statistic."""
        for (name, _), (mean, variance) in zip(self._layers, self._views(self.running), strict=True):
            yield f"{name}.running_mean", mean
            yield f"{name}.running_var", variance

    def _views(self, flat: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        start = 0
        for _, layer in self._layers:
            channels = layer.num_features
            yield flat[start : start + channels], flat[start + channels : start + 2 * channels]
            start += 2 * channels
