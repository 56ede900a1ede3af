"""Fetches the shards that a reader comes to next, while it reads those before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from hvd_imagenet.errors import DataError

LOOK_SECONDS = 0.5  # between two tries to fetch what another process fetches, or what there is no room for
FAILED_SECONDS = 30  # before the next try, where one has failed for good

Shards = dict[int, None]  # as a set that keeps its order


class Prefetcher:
    """A thread that sees to it that the shards of the window at hand are there, and then those of the next.

    Every worker of a host has one, and they share out the shards: what one fetches, the others pass over.

    Args:
        windows: of shard numbers, in the order of their use; no more than two that follow on each other are in use at
            a time.
        fetch: sees to it that a shard is there; False: not now.
        claim: told which shards are to stay from now on.
        settled: reads of a window's shards, after which none of the window before is expected any more.
    """

    def __init__(
        self,
        windows: Iterator[np.ndarray],
        fetch: Callable[[int], bool],
        claim: Callable[[Shards], None],
        settled: int,
    ):
        self._windows, self._fetch, self._claim, self._settled = windows, fetch, claim, settled
        self._changing = threading.Condition()
        self._before: Shards = {}
        self._now: Shards = {}
        self._next: Shards = {}
        self._reads_of_next = 0
        self._moved = self._closed = False
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def reached(self, shard: int) -> None:
        """A shard is about to be read; cheap, and from any thread."""
        with self._changing:
            if shard in self._now:
                self._reads_of_next = self._reads_of_next if shard in self._next else 0
            elif self._next and shard not in self._before:
                self._reads_of_next += 1
                if shard not in self._next or self._reads_of_next >= self._settled:
                    self._moved = True
                    self._changing.notify()

    def close(self) -> None:
        """End, once the shard at hand is there; what is claimed stays so."""
        with self._changing:
            self._closed = True
            self._changing.notify()

    def _run(self) -> None:
        first, second = self._take(), self._take()
        with self._changing:
            self._now, self._next = first, second
        while True:
            with self._changing:
                if self._closed:
                    return
                self._claim(self._now | self._next)
            self._fetch_all(self._now)
            self._fetch_all(self._next)
            with self._changing:
                self._changing.wait_for(self._is_over)
            following = self._take()
            with self._changing:
                self._before, self._now, self._next = self._now, self._next, following
                self._moved, self._reads_of_next = False, 0

    def _take(self) -> Shards:
        return next((dict.fromkeys(window.tolist()) for window in self._windows), {})

    def _fetch_all(self, shards: Shards) -> None:
        """Fetch what is not there, in this order; returns when all is there, or the reader has moved on."""
        left = list(shards)
        while left:
            pause = LOOK_SECONDS
            try:
                left = [shard for shard in left if self._is_over() or not self._fetch(shard)]
            except DataError:
                pause = FAILED_SECONDS  # said to the reader, should it come to need that shard before it is there
            with self._changing:
                if self._changing.wait_for(self._is_over, pause if left else 0):
                    return

    def _is_over(self) -> bool:
        return self._moved or self._closed
