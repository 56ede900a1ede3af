"""Residual blocks that start as the identity, in any network: found by the types of layers and what they add up."""

from __future__ import annotations

import copy
import math
import operator
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

CONVOLUTIONS = (_ConvNd, nn.Linear)
PASSING = (nn.Identity, _DropoutNd)
ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


class _Behind(NamedTuple):
    """What a tensor comes from.

    Attributes:
        convolutions: on the longest path to it from the images; -inf: there is none, as to a parameter.
        norm: the batch normalisation that it comes directly out of; None: out of something else.
    """

    convolutions: float
    norm: _BatchNorm | None


def zero_last_gamma(model: nn.Module) -> int:
    """Set gamma of the last batch normalisation of every residual branch to 0 (section 5.1); how many these are.

    A residual branch is what comes directly out of a batch normalisation into an addition, with more convolutions
    behind it than behind what it is added to, such as a shortcut with a normalisation of its own. Only a gamma that is
    learned and still all 1 is set: a network that has been trained stays as it is.

    Raises:
        ValueError: the network's forward depends on its input's values, or is otherwise nothing torch.fx can trace.
    """
    try:
        # Tracing runs the network's code, which may write to the network: it gets a copy, with the same parameters.
        traced = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
        graph = _Tracer().trace(traced)
    except Exception as error:  # of whatever kind the network's code makes of an input without values
        raise ValueError(f"{type(model).__name__} cannot be traced ({error})") from error
    modules = dict(traced.named_modules())
    behind: dict[fx.Node, _Behind] = {}
    found = set()
    for node in graph.nodes:
        before = [behind[other] for other in node.all_input_nodes]
        layer = modules[node.target] if node.op == "call_module" else None
        deepest = max((each.convolutions for each in before), default=0 if node.op == "placeholder" else -math.inf)
        norm = layer if isinstance(layer, _BatchNorm) else None
        if isinstance(layer, PASSING):
            norm = before[0].norm
        behind[node] = _Behind(deepest + isinstance(layer, CONVOLUTIONS), norm)
        if node.op != "call_module" and node.target in ADDITIONS:
            found |= {branch.norm for branch in before if _is_branch(branch, before)}
    return sum(map(_zeroed, found))


def _is_branch(one: _Behind, added: list[_Behind]) -> bool:
    others = [other for other in added if other is not one]
    shorter = others and all(0 <= other.convolutions < one.convolutions for other in others)
    return one.norm is not None and bool(shorter)


def _zeroed(norm: _BatchNorm) -> bool:
    """Whether gamma was to be set to 0, and is now."""
    gamma = norm.weight
    if gamma is None or not gamma.requires_grad or not bool((gamma == 1).all()):
        return False
    nn.init.zeros_(gamma)
    return True


class _Tracer(fx.Tracer):
    """Takes layers of these types as they are, those of the user's own derived from them, too."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (_BatchNorm, *CONVOLUTIONS, *PASSING)) or super().is_leaf_module(module, name)
