"""Residual blocks that start as the identity, in any network: found by the types of layers and what they add up."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.layers import BatchNormalization
from keras.src.models.functional import Functional
from keras.src.ops.numpy import Add

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Conv2DTranspose, layers.Dense)
PASSING = (layers.Identity, layers.Dropout)
ADDITIONS = (layers.Add, Add)  # the latter is what x + y makes


class _Behind(NamedTuple):
    """What a tensor comes from.

    Attributes:
        convolutions: on the longest path to it from the images.
        norm: the batch normalisation that it comes directly out of; None: out of something else.
    """

    convolutions: int
    norm: BatchNormalization | None


def zero_last_gamma(model: keras.Model) -> int:
    """Set gamma of the last batch normalisation of every residual branch to 0 (section 5.1); how many these are.

    A residual branch is what comes directly out of a batch normalisation into an addition, with more convolutions
    behind it than behind what it is added to, such as a shortcut with a normalisation of its own. Only a gamma that is
    learned and still all 1 is set: a network that has been trained stays as it is.

    Raises:
        ValueError: the network is no graph of layers, as functional and sequential models are.
    """
    graph = _graph(model)
    if graph is None:
        raise ValueError(f"{type(model).__name__} is no graph of layers: make it a functional or sequential model")
    found: set[BatchNormalization] = set()
    _walk(graph, [_Behind(0, None) for _ in graph.inputs], found)
    return sum(map(_zeroed, found))


def _graph(operation: keras.Operation) -> Functional | None:
    """What a model consists of, if it is a graph of layers."""
    graph = getattr(operation, "_functional", operation)
    return graph if isinstance(graph, Functional) else None


def _walk(graph: Functional, images: list[_Behind], found: set[BatchNormalization]) -> list[_Behind]:
    """Find the branches' norms from a graph's inputs to its outputs, of which what is behind them is returned."""
    behind = dict(zip(map(id, graph.inputs), images, strict=True))
    for _, nodes in sorted(graph._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if not node.is_input:
                before = [behind[id(tensor)] for tensor in node.input_tensors]
                after = _after(node.operation, before, len(node.output_tensors), found)
                behind.update(zip(map(id, node.output_tensors), after, strict=True))
    return [behind[id(tensor)] for tensor in graph.outputs]


def _after(
    layer: keras.Operation, before: list[_Behind], outputs: int, found: set[BatchNormalization]
) -> list[_Behind]:
    inner = _graph(layer)
    if inner is not None:
        return _walk(inner, before, found)
    if isinstance(layer, ADDITIONS):
        found |= {branch.norm for branch in before if _is_branch(branch, before)}
    deepest = max(each.convolutions for each in before)
    norm = layer if isinstance(layer, BatchNormalization) else None
    if isinstance(layer, PASSING):
        norm = before[0].norm
    return [_Behind(deepest + isinstance(layer, CONVOLUTIONS), norm)] * outputs


def _is_branch(one: _Behind, added: list[_Behind]) -> bool:
    others = [other for other in added if other is not one]
    shorter = others and all(other.convolutions < one.convolutions for other in others)
    return one.norm is not None and bool(shorter)


def _zeroed(norm: BatchNormalization) -> bool:
    """Whether gamma was to be set to 0, and is now."""
    gamma = norm.gamma
    if gamma is None or not (norm.trainable and gamma.trainable) or not np.all(gamma.numpy() == 1):
        return False
    gamma.assign(tf.zeros_like(gamma.value))
    return True
