"""The machines of a job: nodes with some workers each, a network between them, and what links the workers of a node."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Link:
    """What a message meets on its way: alpha and beta of the alpha-beta model.

    Attributes:
        latency: alpha, seconds from one message's beginning until its first byte is there.
        rate: 1 / beta, bytes per second, at which the rest follows; either way at the same time.
    """

    latency: float
    rate: float

    def seconds(self, steps: int, sent: float) -> float:
        """Steps one after the other, in which so many bytes are sent in all."""
        return steps * self.latency + sent / self.rate


@dataclass(frozen=True)
class Cluster:
    """Attributes:
    workers: in all; per_node: on each node, which divides them.
    network: a node's link to the others, shared by its workers; inside: between the workers of a node.
    """

    workers: int
    per_node: int
    network: Link
    inside: Link

    @property
    def nodes(self) -> int:
        return self.workers // self.per_node

    @property
    def slowest(self) -> Link:
        """The link that a ring over all workers waits for."""
        if self.nodes == 1:
            return self.inside
        if self.per_node == 1:
            return self.network
        return Link(max(self.network.latency, self.inside.latency), min(self.network.rate, self.inside.rate))

    def of(self, workers: int, per_node: int) -> Cluster:
        """The same links between another number of workers."""
        return replace(self, workers=workers, per_node=per_node)
