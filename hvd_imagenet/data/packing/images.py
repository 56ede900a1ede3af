"""What an encoded image is, by its header: its format and size, what is odd about it, and why it is none."""

from __future__ import annotations

import io
import re
import warnings
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

# Pillow's name of a format -> how such files' names end. The decoder reads TIFF, JPEG 2000 and PNM, too, but a damaged
# one can end the process, in training as well, and TIFFs it turns by their orientation, unasked.
FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "BMP": ("bmp",),
}
ENDINGS = {ending for endings in FORMATS.values() for ending in endings}
LARGEST = 2**27  # pixels; 400 MB when decoded
LONGEST = 65_500  # pixels of a side of a JPEG
LARGE = 10_000_000  # pixels; takes 20 times as long as a usual photo of ImageNet
JUNK = 64  # bytes that may stand before an image; more is a document with an image in it
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_ORIENTATION = 0x112  # the EXIF tag


class Unusable(Exception):
    """The image cannot be used; the message says why."""


class Examined(NamedTuple):
    """An encoded image as it will be stored.

    Attributes:
        data: its bytes, without what stood before the image.
        extension: how a file of its format is named.
        height, width: in pixels, before any rotation that its EXIF data asks for.
        oddities: what is unusual about it, though it can be used.
    """

    data: bytes
    extension: str
    height: int
    width: int
    oddities: list[str]


def examine(data: bytes, name: str) -> Examined:
    """Read an image's header.

    Args:
        name: of its file, whose ending should be that of its format.

    Raises:
        Unusable: it is empty, no image, of a format that is not decoded, too large, or damaged.
    """
    oddities = []
    start = data.find(_JPEG_START, 1, JUNK) if not data.startswith(_JPEG_START) else 0
    try:
        image, kind = _recognised(data)
    except Unusable:
        if start <= 0:
            raise
        data = data[start:]
        image, kind = _recognised(data)
        oddities.append(f"{start} extraneous bytes before the image, left out")
    if image.width * image.height > LARGEST:
        raise Unusable(f"too large: {image.width} x {image.height} pixels")
    return Examined(data, FORMATS[kind][0], image.height, image.width, oddities + _oddities(image, kind, data, name))


def opened(file: BinaryIO) -> tuple[Image.Image, str]:
    """An image of which no more than the header has been read, and the name of its format.

    Raises:
        Unusable: it has no readable header, or is of a format that is not decoded.
    """
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        raise Unusable("not an image") from None
    except Image.DecompressionBombError:
        raise Unusable("too large: more than 179 million pixels") from None
    except Exception as error:  # whatever a parser makes of damaged bytes
        raise Unusable(f"damaged header: {error}") from None
    kind = "JPEG" if image.format == "MPO" else image.format  # several JPEGs in one file; the first one counts
    if kind not in FORMATS:
        raise Unusable(f"of a format that is not decoded: {kind} (convert it to JPEG or PNG)")
    return image, kind


def shrunk(image: Examined, shorter_side: int, quality: int) -> Examined:
    """An image with its shorter side reduced to that many pixels, as a JPEG.

    One that is small enough stays as it is, as does one of more than 8 bits, which only the decoder knows how to read,
    and one that would still be too long for a JPEG.

    Raises:
        Unusable: it cannot be decoded.
    """
    shorter = min(image.height, image.width)
    width, height = (max(shorter_side, round(side * shorter_side / shorter)) for side in (image.width, image.height))
    encoded = Image.open(io.BytesIO(image.data))
    if shorter <= shorter_side or encoded.mode.startswith(("I", "F")) or max(width, height) > LONGEST:
        return image
    try:
        pixels = encoded if encoded.mode in ("L", "RGB") else encoded.convert("RGB")
        resized = pixels.resize((width, height), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError) as error:
        raise Unusable(f"cannot be decoded: {error}") from None
    file = io.BytesIO()
    resized.save(file, "JPEG", quality=quality)
    return Examined(file.getvalue(), FORMATS["JPEG"][0], height, width, image.oddities)


def _recognised(data: bytes) -> tuple[Image.Image, str]:
    if not data:
        raise Unusable("empty: 0 bytes")
    if re.match(rb"\s*<(!doctype|html|head|body|\?xml)", data[:256], re.IGNORECASE):
        raise Unusable("a web page, no image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, and of EXIF data: both are looked at here
        return opened(io.BytesIO(data))


def _oddities(image: Image.Image, kind: str, data: bytes, name: str) -> list[str]:
    found = []
    ending = name.rpartition(".")[2].lower()
    if ending in ENDINGS and ending not in FORMATS[kind]:
        found.append(f"{kind} under a name that ends in .{ending}")
    if image.mode == "CMYK":
        found.append("YCCK colours" if image.info.get("adobe_transform") == 2 else "CMYK colours")
    elif image.mode in ("L", "1", "LA", "I;16"):
        found.append("grey")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        found.append("transparency, ignored")
    if image.info.get("progressive"):
        found.append("progressive")
    if min(image.size) == 1:
        found.append("a side of 1 pixel")
    if image.width * image.height >= LARGE:
        found.append(f"large: {image.width} x {image.height} pixels")
    if kind == "JPEG" and not data.endswith(_JPEG_END):
        found.append("extraneous bytes after the image")
    return found + _exif_oddities(image)


def _exif_oddities(image: Image.Image) -> list[str]:
    if not image.info.get("exif"):
        return []
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            tags = Image.Exif()
            tags.load(image.info["exif"])
            orientation = tags.get(_ORIENTATION, 1)
    except Exception:  # whatever a parser makes of damaged bytes
        return ["broken EXIF"]
    if warned or not len(tags):
        return ["broken EXIF"]
    return [f"EXIF orientation {orientation}, ignored"] if orientation in range(2, 9) else []
