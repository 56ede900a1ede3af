"""What tests of data sets share: an executor that needs no processes, small sources, and what lies in a folder."""

import io
import json
import tarfile
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
from PIL import Image

from hvd_imagenet.data.pack import Options, pack
from hvd_imagenet.data.sources.folder import ImageFolder

SMALL = 5000  # bytes of a shard: about seven images


class Here(Executor):
    """Does what it is given at once, in this process."""

    def submit(self, function, /, *arguments, **named):
        future = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def json_lines(path: Path) -> list:
    """What a file has, one JSON value per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def packed_folder(folder: Path, destination: Path, max_rejects: float = 0.0, **options) -> Path:
    """A folder of class folders, packed; left as it is where it is there, as when another worker has made it."""
    pack(ImageFolder(folder), destination, Here(), Options(**options), max_rejects)
    return destination


def files_of(folder: Path) -> dict[str, bytes]:
    """All files in a folder, by their paths below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def picture(height: int = 40, width: int = 50, seed: int = 0) -> Image.Image:
    """A picture of a few colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    """An image in the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tar_of(members: dict[str, bytes], change=lambda header: None) -> bytes:
    """A tar file of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            change(header)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()
