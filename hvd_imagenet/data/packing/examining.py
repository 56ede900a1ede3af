"""Reading images and finding out which of them can be used: the same for packing and for verifying."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hvd_imagenet.data.packing.decodable import findings
from hvd_imagenet.data.packing.images import Examined, Unusable, examine
from hvd_imagenet.data.sources import Item, Reader
from hvd_imagenet.errors import DataError

AT_ONCE = 256  # images in memory


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
    reader: Reader, items: list[Item], report: Report, change: Callable[[Examined], Examined] = lambda image: image
) -> Iterator[Usable]:
    """The images that can be used; what is to be said of them, and of the others, goes into the report.

    Args:
        change: what is made of an image before it is decoded; may raise ``Unusable``.

    Raises:
        DataError: an item cannot be read.
    """
    for start in range(0, len(items), AT_ONCE):
        part = items[start : start + AT_ONCE]
        examined = [_examined(reader, item, change) for item in part]
        found = iter(findings([image for image in examined if isinstance(image, Examined)]))
        for number, (item, image) in enumerate(zip(part, examined, strict=True), start):
            reason, warning = next(found) if isinstance(image, Examined) else (image, None)
            about = {"name": item.name, "label": item.label}
            if reason:
                report.rejected.append({**about, "reason": reason})
                continue
            oddities = image.oddities + ([f"damaged: {warning}"] if warning else [])
            if oddities:
                report.odd.append({**about, "oddities": oddities})
            yield Usable(number, image)


def _examined(reader: Reader, item: Item, change: Callable[[Examined], Examined]) -> Examined | str:
    """An image as it is to be decoded, or why it cannot be used."""
    try:
        data = reader(item)
    except OSError as error:
        raise DataError(f"{item.name}: cannot be read ({error.strerror}); repair or remove it") from None
    try:
        return change(examine(data, item.name))
    except Unusable as error:
        return str(error)
