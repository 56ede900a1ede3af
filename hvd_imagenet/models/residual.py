"""What a residual branch is, in any network: a graph of tensors, whatever framework it was read from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Value:
    """A tensor of a network.

    Attributes:
        before: what it is made from.
        convolution: whether a convolution, or another layer that learns such weights, makes it.
        norm: the batch normalisation that it comes directly out of; None: out of something else.
        depth: convolutions on the longest path to it.
    """

    before: list[Value]
    convolution: bool = False
    norm: Any = None
    depth: int = field(init=False)

    def __post_init__(self):
        self.depth = max((value.depth for value in self.before), default=0) + self.convolution


def branch_norms(added: list[Value]) -> set[Any]:
    """The normalisations that end a residual branch, of tensors that are added up.

    A residual branch comes directly out of a normalisation and is added to nothing but shortcuts around it.
    """
    return {
        one.norm
        for one in added
        if one.norm is not None and len(added) > 1 and all(_is_shortcut(it, one) for it in added if it is not one)
    }


def _is_shortcut(value: Value, branch: Value) -> bool:
    """Whether a tensor is what the branch begins with, or that behind one convolution; the branch must have more."""
    sources, convolutions = _sources(branch), 0
    while value not in sources:
        convolutions += value.convolution
        if len(value.before) != 1 or convolutions > 1:
            return False
        [value] = value.before
    return branch.depth - value.depth > convolutions


def _sources(value: Value) -> set[Value]:
    """All that a tensor is made from, directly or not."""
    found: set[Value] = set()
    next_ones = [*value.before]
    while next_ones:
        one = next_ones.pop()
        if one not in found:
            found.add(one)
            next_ones += one.before
    return found
