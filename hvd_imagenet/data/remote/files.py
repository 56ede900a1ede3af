"""A packed data set behind a URL: its shards are fetched into a cache of this host when they are needed, or before."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from hvd_imagenet.data import description
from hvd_imagenet.data.description import Description, Shard
from hvd_imagenet.data.index import SplitIndex
from hvd_imagenet.data.remote.cache import Cache
from hvd_imagenet.data.remote.caching import Caching
from hvd_imagenet.data.remote.fetching import NotThereError, Remote
from hvd_imagenet.data.remote.prefetch import Prefetcher
from hvd_imagenet.data.remote.reading import Reading
from hvd_imagenet.errors import DataError

OPENING = 60  # seconds at most without an answer to the first question, since the address may be wrong


def open_split(url: str, split: str, caching: Caching) -> tuple[Description, RemoteFiles]:
    """What a remote set says of itself, and the files of one of its splits.

    The description is asked for anew each time, since it says which shards belong to the set; all else is known by its
    checksum.

    Args:
        url: that `address.checked` has let pass.

    Raises:
        SettingsError: an address that cannot be read from, or a cache that cannot be used.
        DataError: not a packed set, a damaged one, or the network failed for too long.
    """
    patience = caching.patience
    opening = dataclasses.replace(patience, give_up=min(patience.give_up, OPENING))
    name = f"{url}/{description.NAME}"
    try:
        data_set = description.parse(Remote(url, opening).read(description.NAME), name)
    except NotThereError:
        raise DataError(
            f"{url}: has no {description.NAME}, and only packed sets are read from a URL; make one with 'hvd-imagenet "
            "data pack SRC DST', and copy DST there"
        ) from None
    if split not in data_set.splits:
        raise DataError(f"{name}: unreadable (has no split {split}); make the data set again")
    found = data_set.splits[split]
    index = Shard(f"{split}/index.npz", found.index_bytes, found.samples, found.index_sha256)
    for file in (index, *found.shards):
        if not re.fullmatch("[0-9a-f]{64}", file.sha256) or file.bytes < 1:
            raise DataError(f"{name}: unreadable (length or sha256 of {file.name}); make the data set again")
    return data_set, RemoteFiles(Remote(url, patience), Cache(caching), index, found.shards)


class RemoteFiles:
    """The shards of a remote split.

    Args:
        remote: the data set's folder.
        cache: where they are kept.
        index: of the split; kept as long as this is.
        shards: in the order of their numbers.
    """

    def __init__(self, remote: Remote, cache: Cache, index: Shard, shards: list[Shard]):
        self._remote, self._cache, self._index, self._shards = remote, cache, index, shards
        self._kept = cache.claim()
        self._kept.set([index.sha256])
        self._reading: Reading | None = None  # that all share, from the first `expect` on
        self._prefetcher: Prefetcher | None = None
        self._end: Callable[[], None] = lambda: None

    def index(self) -> SplitIndex:
        """The split's index, mapped from the cache."""
        os.close(self._open(self._index, Reading()))
        return SplitIndex.load(self._cache.path(self._index.sha256))

    def open(self, number: int) -> int:
        if self._prefetcher:
            self._prefetcher.reached(int(number))
        return self._open(self._shards[number], self._reading or Reading())

    def name(self, number: int) -> str:
        shard = self._shards[number]
        return f"{self._remote.url}/{shard.name} (cached as {self._cache.path(shard.sha256)})"

    def expect(self, windows: Iterator[np.ndarray], in_flight: int) -> Callable[[], None]:
        self._end()
        reading = self._reading = Reading()
        prefetcher = self._prefetcher = Prefetcher(windows, partial(self._fetch_ahead, reading), self._keep, in_flight)

        def end() -> None:
            prefetcher.close()
            reading.end()

        self._end = end
        return end

    def room(self, at_once: int) -> int:
        return self._index.bytes + sum(sorted(shard.bytes for shard in self._shards)[-at_once:])

    def for_another_reader(self) -> RemoteFiles:
        return RemoteFiles(self._remote, self._cache, self._index, self._shards)

    def _open(self, shard: Shard, reading: Reading) -> int:
        try:
            return self._cache.open(shard.sha256, shard.bytes, partial(self._remote.fetch, shard, reading), reading)
        except Exception as error:
            reading.end(error)
            raise

    def _fetch_ahead(self, reading: Reading, number: int) -> bool:
        shard = self._shards[number]
        return self._cache.fetch_ahead(shard.sha256, shard.bytes, partial(self._remote.fetch, shard, reading))

    def _keep(self, numbers: Iterable[int]) -> None:
        self._kept.set([self._index.sha256, *(self._shards[number].sha256 for number in numbers)])
