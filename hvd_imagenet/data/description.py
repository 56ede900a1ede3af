"""What dataset.json says of a packed data set; written last, it makes a data set of a folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import DataError

FORMAT = 2
NAME = "dataset.json"


@dataclass(frozen=True)
class Shard:
    """A tar file of a split.

    Attributes:
        name: its path below the data set's folder.
        bytes: its length.
        samples: how many it holds: those that follow on the shards' before.
        sha256: its checksum.
    """

    name: str
    bytes: int
    samples: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """A split of a packed data set.

    Attributes:
        samples: how many there are.
        contents: the checksum of ``SplitIndex.contents``.
        index_bytes, index_sha256: of the file ``SPLIT/index.npz``.
        shards: in the order of their numbers.
    """

    samples: int
    contents: str
    index_bytes: int
    index_sha256: str
    shards: list[Shard]


@dataclass(frozen=True)
class Description:
    """A packed data set.

    Attributes:
        source: what it was made from; items: a checksum of all of that; options: how.
        classes: their names, in the order of the labels.
        splits: by name, ``train`` and ``val``.
    """

    source: str
    items: str
    options: dict[str, Any]
    classes: list[str]
    splits: dict[str, Split]

    def save(self, folder: Path) -> None:
        """Write ``dataset.json``; whole, or not at all."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)
        write_whole(folder / NAME, f"{text}\n".encode())


def parse(text: str | bytes, name: str) -> Description:
    """Read what ``Description.save`` has written.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: it is damaged, or of another version.
    """
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise DataError(
                f"{name}: packed in format {found['format']}, this version reads {FORMAT}; pack the data set again"
            )
        splits = {
            split: Split(**{**values, "shards": [Shard(**shard) for shard in values["shards"]]})
            for split, values in found["splits"].items()
        }
        made = Description(found["source"], found["items"], found["options"], list(map(str, found["classes"])), splits)
        for split in splits.values():
            if split.samples < 1 or sum(shard.samples for shard in split.shards) != split.samples:
                raise ValueError("the numbers of samples do not fit")
        return made
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name}: unreadable ({error!r}); make the data set again") from None
