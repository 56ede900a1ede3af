"""How a remote data set is kept on a host, and how long a network that fails is borne with."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hvd_imagenet.errors import SettingsError

UNLIMITED = 3600.0  # seconds: where no stall is to end a job


@dataclass(frozen=True)
class Patience:
    """How long a network that fails is borne with; all in seconds.

    Attributes:
        give_up: without a range that has come.
        limit: for a range; doubled with each try in a row, up to a quarter of `give_up`.
        pause: between the first tries at most, a random part of it; doubled with each, up to `longest_pause`.
    """

    give_up: float = 200
    limit: float = 20
    pause: float = 1
    longest_pause: float = 30

    def limit_of(self, attempt: int) -> float:
        """Seconds that the ranges of a try may take; the first is number 1."""
        return min(self.limit * 2 ** (attempt - 1), self._longest_try)

    @property
    def longest(self) -> float:
        """Seconds after which even the last try is over."""
        return self.give_up + self.longest_pause + self._longest_try

    @property
    def _longest_try(self) -> float:
        return max(self.limit, self.give_up / 4)

    @classmethod
    def within(cls, stall_seconds: float | None) -> Patience:
        """So that a fetch is given up before the job counts as hanging (``faults.stall_seconds``; None: never).

        A worker may have to wait for room in the cache for that long, and then for the network.
        """
        give_up = UNLIMITED if stall_seconds is None else stall_seconds / 3
        return cls(
            give_up,
            limit=min(cls.limit, give_up / 4),
            pause=min(cls.pause, give_up / 10),
            longest_pause=min(cls.longest_pause, give_up / 10),
        )


@dataclass(frozen=True)
class Caching:
    """How the files of a remote data set are kept on a host.

    Attributes:
        folder: where; None: `default_folder`.
        limit: bytes, of all files together.
        patience: with the network.
    """

    folder: Path | None = None
    limit: int = 64 * 2**30
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def of(cls, cache_dir: str | None, cache_gib: float, patience: Patience) -> Caching:
        """As the settings ``data.cache_dir`` and ``data.cache_gib`` have it."""
        return cls(Path(cache_dir) if cache_dir else None, int(cache_gib * 2**30), patience)


def default_folder() -> Path:
    """One of this user, in $TMPDIR, which clusters point at a disk of each node, or in /var/tmp, which stays.

    Not in the home, which nodes often share: slow, with a quota, and each of them would count its files as its own.

    Raises:
        SettingsError: somebody else has made a folder of that name.
    """
    folder = Path(os.environ.get("TMPDIR", "/var/tmp")) / f"hvd_imagenet-{os.getuid()}"
    with suppress(FileNotFoundError):
        if folder.lstat().st_uid != os.getuid():
            raise SettingsError(f"data.cache_dir: null; {folder} belongs to another user; name a folder of your own")
    return folder
