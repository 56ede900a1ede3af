"""Images that cannot be used, each of another kind, and images that look as if they could not."""

import io
import struct
import zlib

import numpy as np
from data_sets import encoded, picture
from PIL import Image

PHOTO = encoded(picture(375, 500), quality=90)
NOISE = np.random.default_rng(0).bytes(5000)
START_OF_SCAN = PHOTO.index(b"\xff\xda")


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x112] = orientation
    return made


def ycck() -> bytes:
    """A JPEG of the colours YCCK: one of CMYK whose Adobe marker says so."""
    data = bytearray(encoded(picture().convert("CMYK")))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def inserted(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at:]


def exif_that_leads_nowhere() -> bytes:
    data = encoded(picture(), exif=exif(6))
    start = data.index(b"Exif") + 10
    return data[:start] + b"\xff\xff\0\0" + data[start + 4 :]


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG of that size, and next to nothing in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_noise(data: bytes) -> bytes:
    return data[:300] + NOISE[:200] + data[500:]


def header_of_another_height(data: bytes, height: int) -> bytes:
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">H", height) + data[start + 2 :]


# What cannot be used: name -> bytes, and a part of the reason that must be given.
BAD = {
    "empty.jpg": (b"", "empty"),
    "zeros.jpg": (bytes(5000), "not an image"),
    "noise.jpg": (NOISE, "not an image"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "page-later.jpg": (b"\n\n  <HTML><head></head></HTML>", "a web page"),
    "xml.jpg": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "text.jpg": (b"Service unavailable. Try again later.", "not an image"),
    "json.jpg": (b'{"error": "quota exceeded"}', "not an image"),
    "half.jpg": (half(PHOTO), "Premature end of JPEG"),
    "most.jpg": (PHOTO[: len(PHOTO) * 99 // 100], "Premature end of JPEG"),
    "no-end.jpg": (PHOTO[:-2], "Premature end of JPEG"),
    "header-only.jpg": (PHOTO[:START_OF_SCAN], "damaged header|cannot be decoded"),
    "header-cut.jpg": (PHOTO[:300], "damaged header|cannot be decoded"),
    "start-only.jpg": (b"\xff\xd8\xff", "not an image|damaged header"),
    "half.png": (half(encoded(picture(), "PNG")), "cannot be decoded"),
    "cut.png": (encoded(picture(375, 500), "PNG")[:-3000], "cannot be decoded"),
    "flipped.png": (
        with_noise(encoded(picture(375, 500), "PNG")),
        "cannot be decoded",
    ),
    "half.webp.jpg": (half(encoded(picture(), "WEBP")), "damaged|cannot|not an image"),
    "animation.jpg": (encoded(picture(), "GIF"), "not decoded: GIF .convert it to JPEG or PNG."),
    "icon.jpg": (encoded(picture(32, 32), "ICO"), "not decoded: ICO"),
    "avif.jpg": (encoded(picture(), "AVIF"), "not decoded: AVIF"),
    "damaged-avif.jpg": (encoded(picture(), "AVIF").replace(b"pitm", b"xitm"), "damaged header|not decoded"),
    "tiff.jpg": (encoded(picture(), "TIFF", exif=exif(6)), "not decoded: TIFF"),
    "portable.jpg": (half(encoded(picture(), "PPM")), "not decoded: PPM"),
    "jpeg-2000.jpg": (encoded(picture(), "JPEG2000"), "not decoded: JPEG2000"),
    "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "document.jpg": (encoded(picture(), "PDF"), "not an image"),
    "archive.jpg": (b"PK\x03\x04" + NOISE[:2000], "not an image"),
    "gzipped.jpg": (b"\x1f\x8b\x08" + NOISE[:2000], "not an image"),
    "git-lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not an image"),
    "bomb.png": (png_of(60_000, 60_000), "too large"),
    "large.png": (png_of(12_000, 12_000), "too large: 12000 x 12000"),
    "no-pixels.png": (png_of(64, 64), "cannot be decoded"),
}

# What can be used, though it is unusual: name -> bytes, and what it is listed as.
ODD = {
    "png-inside.JPEG": (encoded(picture(), "PNG"), "PNG under a name that ends in .jpeg"),
    "cmyk.jpg": (encoded(picture().convert("CMYK")), "CMYK colours"),
    "ycck.jpg": (ycck(), "YCCK colours"),
    "grey.jpg": (encoded(picture().convert("L")), "grey"),
    "grey.png": (encoded(picture().convert("L"), "PNG"), "grey"),
    "16-bit.png": (encoded(Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50)), "PNG"), "grey"),
    "turned.jpg": (encoded(picture(), exif=exif(6)), "EXIF orientation 6, ignored"),
    "broken-exif.jpg": (inserted(PHOTO, 2, b"\xff\xe1\x00\x20Exif\0\0" + b"\xff" * 24), "broken EXIF"),
    "cut-exif.jpg": (exif_that_leads_nowhere(), "broken EXIF"),
    "progressive.jpg": (encoded(picture(), progressive=True), "progressive"),
    "tail.jpg": (PHOTO + bytes(1000), "extraneous bytes after the image"),
    "noisy-tail.jpg": (PHOTO + NOISE[:1000], "extraneous bytes after the image"),
    "front.jpg": (b"\r\n" + PHOTO, "2 extraneous bytes before the image, left out"),
    "extraneous.jpg": (inserted(PHOTO, len(PHOTO) - 2, b"\x12\x34\x56"), "damaged: .*extraneous"),
    "hole.jpg": (PHOTO[: len(PHOTO) // 2] + bytes(2000) + PHOTO[len(PHOTO) // 2 + 2000 :], "damaged: premature end"),
    "taller.jpg": (header_of_another_height(PHOTO, 4000), "damaged: premature end"),
    "thin.jpg": (encoded(picture(300, 1)), "a side of 1 pixel"),
    "flat.jpg": (encoded(picture(1, 300)), "a side of 1 pixel"),
    "dot.png": (encoded(picture(1, 1), "PNG"), "a side of 1 pixel"),
    "20-megapixel.jpg": (encoded(picture(3648, 5472)), "large: 5472 x 3648 pixels"),
    "see-through.png": (encoded(picture().convert("RGBA"), "PNG"), "transparency, ignored"),
    "webp.jpg": (encoded(picture(), "WEBP"), "WEBP under a name that ends in .jpg"),
    "bitmap.jpg": (encoded(picture(), "BMP"), "BMP under a name that ends in .jpg"),
}

# What can be used, and is not unusual.
GOOD = {
    "photo.jpg": PHOTO,
    "PHOTO.JPEG": PHOTO,
    "palette.png": encoded(picture().convert("P"), "PNG"),
    "upright.jpg": encoded(picture(), exif=exif(1)),
    "fine.jpg": encoded(picture(), quality=100, subsampling=0),
}


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
