"""A trained network as files that others read: weights for torchvision, and ONNX."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import numpy as np
import torch
from torch import nn

from hvd_imagenet.backend import require_same_shapes
from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.torch.model import build

COUNTER = "num_batches_tracked"  # of each batch normalisation; no part of a run's state


def trained(config: Config, weights: dict[str, np.ndarray]) -> nn.Module:
    """The network as evaluation uses it; on the CPU, in float32.

    Args:
        weights: parameters and running statistics by their neutral names.

    Raises:
        ValueError: names or shapes that differ from the network's.
        SettingsError: the user's own network cannot be made.
    """
    model = build(config.model, config.data.image_size).to(memory_format=torch.contiguous_format)
    kept = model.state_dict()
    named = {name: tensor.data for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    named = {name: tensor for name, tensor in named.items() if name in kept and not name.endswith(COUNTER)}
    require_same_shapes("model", {name: tuple(tensor.shape) for name, tensor in named.items()}, weights)
    for name, tensor in named.items():
        tensor.copy_(torch.from_numpy(weights[name]))
    return model.eval()


def torchvision_file(model: nn.Module, step: int) -> bytes:
    """What ``torch.save`` makes of the state_dict, with torchvision's names and order, and its counters at `step`."""
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(COUNTER):
            tensor.fill_(step)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def onnx_file(model: nn.Module, size: int, facts: dict[str, str]) -> bytes:
    """An ONNX model, weights included: ``images`` (batch, 3, size, size) to ``scores`` (batch, classes).

    Args:
        facts: the file's metadata.

    Raises:
        SettingsError: PyTorch's exporter lacks a package.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"--format: onnx; {error}; run: pip install 'hvd_imagenet[onnx]'") from None
    images = torch.zeros(2, 3, size, size)  # of a batch of 1, the exporter would take the 1 for a constant
    with _quietly():
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["images"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # of where in this machine's files each was made
    program.model.metadata_props.update(facts)
    return program.model_proto.SerializeToString()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of its insides and of operations that no network here has, and failures twice."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(disabled)
