"""What workers find on their hosts, and share out there: cores and GPUs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from hvd_imagenet.cores import neighbours_first
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.gpu import Gpu


class Place(NamedTuple):
    """Where a worker runs: its host, the cores it may use, and its GPU by its unique name (None: the CPU).

    `near` are the cores near its GPU; none: not known.
    """

    host: str
    cores: frozenset[int]
    gpu: str | None
    near: frozenset[int] = frozenset()


def this_place(gpu: Gpu | None) -> Place:
    """The place of this process."""
    return Place(socket.gethostname(), frozenset(os.sched_getaffinity(0)), *(gpu or [None]))


def cores_per_worker(places: list[Place], rank: int) -> int:
    """Threads that a worker may keep busy: its host's cores shared out, at least 1.

    Launchers may have bound each worker to cores of its own, or left all of them to all.
    """
    neighbours = [place for place in places if place.host == places[rank].host]
    return max(1, len(frozenset().union(*(place.cores for place in neighbours))) // len(neighbours))


def own_cores(
    places: list[Place], rank: int, in_order: Callable[[frozenset[int]], list[int]] = neighbours_first
) -> frozenset[int]:
    """The cores for a worker to keep to: its share of those that are left to it and to others of its host alike.

    Near its GPU where that is known. Workers that their launcher has bound to cores of their own keep to these, and
    where there are more workers than cores, all keep to all.

    Args:
        in_order: puts the cores into the order in which they are shared out.
    """

    def left_to(place: Place) -> tuple[str, frozenset[int], frozenset[int]]:
        return place.host, place.cores, place.cores & place.near or place.cores

    here = left_to(places[rank])
    alike = [other for other, place in enumerate(places) if left_to(place) == here]
    cores = in_order(here[-1])
    if len(cores) < len(alike):
        return places[rank].cores
    first, end = ((alike.index(rank) + i) * len(cores) // len(alike) for i in (0, 1))
    return frozenset(cores[first:end])


def require_own_gpus(places: list[Place]) -> None:
    """Check that every worker has a GPU to itself, or none has one.

    Raises:
        SettingsError: names two workers that share a GPU, or one that has none.
    """
    owners: dict[tuple[str, str | None], int] = {}
    for rank, place in enumerate(places):
        if place.gpu is None and any(other.gpu for other in places):
            raise SettingsError(f"worker {rank} on {place.host} has no GPU, others have; start one worker per GPU")
        other = owners.setdefault((place.host, place.gpu), rank)
        if place.gpu is not None and other != rank:
            raise SettingsError(
                f"workers {other} and {rank} on {place.host} share GPU {place.gpu}; start one worker per GPU, "
                "or hide the GPUs: CUDA_VISIBLE_DEVICES="
            )
