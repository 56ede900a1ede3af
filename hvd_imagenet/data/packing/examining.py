"""Reading images and finding out which of them can be used: the same for packing and for verifying."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hvd_imagenet.data.packing.decodable import Finding, findings
from hvd_imagenet.data.packing.images import Examined, Unusable, examine
from hvd_imagenet.data.sources import Item, Reader
from hvd_imagenet.errors import DataError

AT_ONCE, BYTES_AT_ONCE = 256, 2**26  # images in memory, encoded


@dataclasses.dataclass
class Report:
    """What has been found out about some items.

    Attributes:
        rejected: those that cannot be used: name, label, reason.
        odd: those that are unusual, but can: name, label, oddities.
        host: where that was found.
    """

    rejected: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    odd: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    host: str = dataclasses.field(default_factory=socket.gethostname)


class Usable(NamedTuple):
    """An image that can be used, and which of the items it is, from 0."""

    number: int
    image: Examined


def usable(
    reader: Reader, items: list[Item], report: Report, change: Callable[[Examined], Examined] | None = None
) -> Iterator[Usable]:
    """The images that can be used; what is to be said of them, and of the others, goes into the report.

    Args:
        change: what is made of an image that can be decoded, and is then decoded itself; may raise ``Unusable``.

    Raises:
        DataError: an item cannot be read.
    """
    for start, stop in _parts(items):
        images = _decoded([_examined(reader, item) for item in items[start:stop]])
        if change:
            images = _all_changed(images, change)
        for number, image in enumerate(images, start):
            about = {"name": items[number].name, "label": items[number].label}
            if isinstance(image, str):
                report.rejected.append({**about, "reason": image})
                continue
            if image.oddities:
                report.odd.append({**about, "oddities": image.oddities})
            yield Usable(number, image)


def _parts(items: list[Item]) -> Iterator[tuple[int, int]]:
    """Where the items begin and end that are in memory together."""
    first, taken = 0, 0
    for number, item in enumerate(items):
        if number > first and (number - first == AT_ONCE or taken + item.length > BYTES_AT_ONCE):
            yield first, number
            first, taken = number, 0
        taken += item.length
    if items:
        yield first, len(items)


def _examined(reader: Reader, item: Item) -> Examined | str:
    """An image as it comes from the source, or why it cannot be used."""
    try:
        data = reader(item)
    except OSError as error:
        raise DataError(f"{item.name}: cannot be read ({error.strerror}); repair or remove it") from None
    try:
        return examine(data, item.name)
    except Unusable as error:
        return str(error)


def _decoded(images: list[Examined | str]) -> list[Examined | str]:
    """The images again, with what the decoder warns of, or why it cannot decode them."""
    found = iter(findings([image for image in images if isinstance(image, Examined)]))
    return [_judged(image, next(found)) if isinstance(image, Examined) else image for image in images]


def _judged(image: Examined, finding: Finding) -> Examined | str:
    if finding.warning:
        image = image._replace(oddities=[*image.oddities, f"damaged: {finding.warning}"])
    return finding.reason or image


def _all_changed(images: list[Examined | str], change: Callable[[Examined], Examined]) -> list[Examined | str]:
    """What the change makes of the images, decoded where that is something else."""
    changed = [_changed(image, change) if isinstance(image, Examined) else image for image in images]
    new = iter(_decoded([after for before, after in zip(images, changed, strict=True) if after is not before]))
    return [before if after is before else next(new) for before, after in zip(images, changed, strict=True)]


def _changed(image: Examined, change: Callable[[Examined], Examined]) -> Examined | str:
    try:
        return change(image)
    except Unusable as error:
        return str(error)
