"""How long an all-reduce takes by each algorithm, in the alpha-beta model (section 4).

Of b bytes over p partners, whichever the algorithm, each sends and is sent 2 (p - 1) / p b bytes: (p - 1) / p b while
the sums are scattered, as much while they are gathered. What differs is the number of steps, each of which costs alpha:
2 (p - 1) around a ring, 2 log2(p) by halving and doubling. A single partner has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable

from hvd_imagenet.planner.cluster import Cluster, Link


def sent(partners: int, count: float) -> float:
    """Bytes that each of so many partners sends, and is sent, in the all-reduce of `count` bytes."""
    return 2 * (partners - 1) / partners * count


def bandwidth_needed(partners: int, count: float, seconds: float) -> float:
    """Bytes per second, either way, for an all-reduce to be done within the seconds of a backprop (section 4).

    The paper's figures: 2 x 100 MB / 0.125 s = 12.8 Gbit/s, with (p - 1) / p taken for 1.
    """
    return sent(partners, count) / seconds


def ring_steps(partners: int) -> int:
    return 2 * (partners - 1)


def halving_steps(partners: int) -> int:
    """2 log2(p); where p is no power of two, one step more each way between blocks that are (binary blocks)."""
    return 2 * (partners - 1).bit_length()


def ring(cluster: Cluster, count: float) -> float:
    """Around all workers, node after node: each step waits for the slowest link, each node sends as one worker does."""
    return cluster.slowest.seconds(ring_steps(cluster.workers), sent(cluster.workers, count))


def halving_doubling(cluster: Cluster, count: float) -> float:
    """Over all workers, the nearest first: inside of a node, then all at once their n-th parts between the nodes.

    So each node sends 2 (N - 1) / N b bytes, N the nodes, as if it were one partner.
    """
    inside = cluster.inside.seconds(halving_steps(cluster.per_node), sent(cluster.per_node, count))
    return inside + cluster.network.seconds(halving_steps(cluster.nodes), sent(cluster.nodes, count))


def hierarchical(cluster: Cluster, count: float) -> float:
    """The paper's: summed inside each node, all-reduced between the nodes by halving and doubling, broadcast inside."""
    others = cluster.per_node - 1  # in a chain, through which the bytes pass in a stream
    inside = cluster.inside.seconds(others, count if others else 0.0)
    return 2 * inside + between(halving_steps, cluster.nodes, cluster.network, count)


def between(steps: Callable[[int], int], partners: int, link: Link, count: float) -> float:
    """Between partners that each have a link to themselves, by `ring_steps` or `halving_steps`."""
    return link.seconds(steps(partners), sent(partners, count))


ALGORITHMS = {"ring": ring, "halving/doubling": halving_doubling, "hierarchical": hierarchical}
