"""What a network has learned, and its optimizer's momentum, under neutral names."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hvd_imagenet.backend import State, require_same_shapes
from hvd_imagenet.torch.norm import StepStatistics
from hvd_imagenet.torch.optim import contiguous_view
from hvd_imagenet.torch.own import own_buffers


class NetworkState:
    """Reads and writes it, where it is.

    Args:
        model: the network; statistics: its running statistics; optimizer: its optimizer.
    """

    def __init__(self, model: nn.Module, statistics: StepStatistics, optimizer: torch.optim.SGD):
        self._model = model
        self._statistics = statistics
        self._optimizer = optimizer

    def copy(self) -> State:
        model = {name: _to_numpy(tensor) for name, tensor in self._kept().items()}
        return State(model, {name: _to_numpy(slot) for name, slot in self._momentum().items()})

    def load(self, state: State) -> None:
        """See `Backend.load_state`."""
        kept = self._kept()
        require_same_shapes("model", {name: tuple(t.shape) for name, t in kept.items()}, state.model)
        parameters = self._trainable()
        if state.momentum:
            require_same_shapes("momentum", {name: tuple(p.shape) for name, p in parameters.items()}, state.momentum)
        self._optimizer.state.clear()
        for name, tensor in kept.items():
            tensor.copy_(torch.from_numpy(state.model[name]))
        self._statistics.use_running()  # which a frozen layer normalises by in training, too
        for name, slot in state.momentum.items():
            parameter = parameters[name]
            momentum = torch.empty_like(parameter).copy_(torch.from_numpy(slot))
            self._optimizer.state[parameter]["momentum_buffer"] = momentum

    def fingerprint(self) -> dict[str, int]:
        """See `Backend.fingerprint`."""
        named = self._named()
        sums = torch.stack([_sum_of_bits(tensor) for tensor in named.values()])
        return dict(zip(named, sums.tolist(), strict=True))

    def _named(self) -> dict[str, torch.Tensor]:
        return {**{name: p.data for name, p in self._model.named_parameters()}, **dict(self._statistics.named())}

    def _kept(self) -> dict[str, torch.Tensor]:
        """With the buffers of a user's own layers, which may differ from worker to worker: rank 0's are saved."""
        return {**self._named(), **own_buffers(self._model)}

    def _momentum(self) -> dict[str, torch.Tensor]:
        slots = {name: self._optimizer.state[p].get("momentum_buffer") for name, p in self._trainable().items()}
        return {name: slot for name, slot in slots.items() if slot is not None}

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}


def _sum_of_bits(tensor: torch.Tensor) -> torch.Tensor:
    """A checksum, int64: the values' bits as integers, each times an odd number of its place, summed.

    Any one flipped bit changes it, and so does another order.
    """
    memory = contiguous_view(tensor)
    flat = (tensor if memory is None else memory).reshape(-1)
    bits = flat.view({4: torch.int32, 8: torch.int64}[flat.element_size()]).to(torch.int64)
    return (bits * torch.arange(1, 2 * len(bits), 2, device=bits.device)).sum()


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().contiguous().numpy())
