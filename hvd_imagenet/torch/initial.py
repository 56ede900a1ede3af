"""Residual blocks that start as the identity, in any network: found by the types of layers and what they add up."""

from __future__ import annotations

import copy
import operator

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from hvd_imagenet.models.residual import Value, branch_norms

CONVOLUTIONS = (_ConvNd, nn.Linear)
PASSING = (nn.Identity, _DropoutNd)
ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


def zero_last_gamma(model: nn.Module) -> int:
    """Set gamma of the last batch normalisation of every residual branch to 0 (section 5.1); how many these are.

    A residual branch comes directly out of a batch normalisation into an addition to its shortcut: what the branch
    begins with, as it is or behind one convolution, of which the branch has more. Only a gamma that is learned and
    still all 1 is set: a network that has been trained stays as it is.

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
    values: dict[fx.Node, Value] = {}
    found = set()
    for node in graph.nodes:
        before = [values[other] for other in node.all_input_nodes]
        layer = modules[node.target] if node.op == "call_module" else None
        norm = layer if isinstance(layer, _BatchNorm) else None
        if _passes(layer):
            norm = before[0].norm
        values[node] = Value(before, isinstance(layer, CONVOLUTIONS), norm)
        if node.op != "call_module" and node.target in ADDITIONS:
            found |= branch_norms(before)
    return sum(map(_zeroed, found))


def _passes(layer: nn.Module | None) -> bool:
    """Whether a layer hands on its input, if any of it: those that drop whole branches go by that name everywhere."""
    return isinstance(layer, PASSING) or type(layer).__name__ in ("StochasticDepth", "DropPath")


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
        own = isinstance(module, (_BatchNorm, *CONVOLUTIONS)) or _passes(module)
        return own or super().is_leaf_module(module, name)
