"""Where images come from before they are packed: each source lists classes and splits and yields encoded images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Encoded(NamedTuple):
    """One image as it will be stored: where it came from, its class number, and its bytes (JPEG or PNG)."""

    name: str
    label: int
    data: bytes


class Source(Protocol):
    """What `data pack` reads.

    Attributes:
        classes: the names of the classes, in the order of the labels.
        counts: number of images of each split: ``train`` and ``val``.
        description: what the data set was made from, for ``dataset.json``.
    """

    classes: list[str]
    counts: dict[str, int]
    description: str

    def images(self, split: str) -> Iterator[Encoded]:
        """The images of a split, in the order of their sample numbers."""
