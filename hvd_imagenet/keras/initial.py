"""Residual blocks that start as the identity, in any network: found by the types of layers and what they add up."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.layers import BatchNormalization
from keras.src.models.functional import Functional
from keras.src.ops.numpy import Add

from hvd_imagenet.models.residual import Value, branch_norms

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Conv2DTranspose, layers.Dense)
PASSING = (layers.Identity, layers.Dropout)
ADDITIONS = (layers.Add, Add)  # the latter is what x + y makes


def zero_last_gamma(model: keras.Model) -> int:
    """Set gamma of the last batch normalisation of every residual branch to 0 (section 5.1); how many these are.

    A residual branch comes directly out of a batch normalisation into an addition to its shortcut: what the branch
    begins with, as it is or behind one convolution, of which the branch has more. Only a gamma that is learned and
    still all 1 is set: a network that has been trained stays as it is.

    Raises:
        ValueError: the network is no graph of layers, as functional and sequential models are.
    """
    graph = _graph(model)
    if graph is None:
        raise ValueError(f"{type(model).__name__} is no graph of layers: make it a functional or sequential model")
    found: set[BatchNormalization] = set()
    _walk(graph, [Value([]) for _ in graph.inputs], found)
    return sum(map(_zeroed, found))


def _graph(operation: keras.Operation) -> Functional | None:
    """What a model consists of, if it is a graph of layers."""
    graph = getattr(operation, "_functional", operation)
    return graph if isinstance(graph, Functional) else None


def _walk(graph: Functional, images: list[Value], found: set[BatchNormalization]) -> list[Value]:
    """Find the branches' norms from a graph's inputs to its outputs, which are returned."""
    values = dict(zip(map(id, graph.inputs), images, strict=True))
    for _, nodes in sorted(graph._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if not node.is_input:
                before = [values[id(tensor)] for tensor in node.input_tensors]
                made = _made(node.operation, before, len(node.output_tensors), found)
                values.update(zip(map(id, node.output_tensors), made, strict=True))
    return [values[id(tensor)] for tensor in graph.outputs]


def _made(layer: keras.Operation, before: list[Value], outputs: int, found: set[BatchNormalization]) -> list[Value]:
    """What a layer makes of its inputs."""
    inner = _graph(layer)
    if inner is not None:
        return _walk(inner, before, found)
    if isinstance(layer, ADDITIONS):
        found |= branch_norms(before)
    norm = layer if isinstance(layer, BatchNormalization) else None
    if isinstance(layer, PASSING):
        norm = before[0].norm
    return [Value(before, isinstance(layer, CONVOLUTIONS), norm) for _ in range(outputs)]


def _zeroed(norm: BatchNormalization) -> bool:
    """Whether gamma was to be set to 0, and is now."""
    gamma = norm.gamma
    if gamma is None or not (norm.trainable and gamma.trainable) or not np.all(gamma.numpy() == 1):
        return False
    gamma.assign(tf.zeros_like(gamma.value))
    return True
