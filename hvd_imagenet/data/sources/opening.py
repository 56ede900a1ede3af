"""Finding out what kind of source a folder is."""

from __future__ import annotations

from pathlib import Path

from hvd_imagenet.data import description
from hvd_imagenet.data.packing import workplace
from hvd_imagenet.data.sources import Source, files_below
from hvd_imagenet.data.sources.folder import ImageFolder
from hvd_imagenet.data.sources.imagenet import TRAIN, VAL, ImageNetArchives
from hvd_imagenet.data.sources.webdataset import WebDatasetShards
from hvd_imagenet.errors import DataError

KNOWN = (
    f"class folders (train/CLASS/*, val/CLASS/*), ILSVRC2012's archives ({TRAIN}, {VAL}), WebDataset tar shards, or "
    "Hugging Face's Parquet files"
)


def open_source(root: Path, follow_links: bool = False) -> Source:
    """The source that a folder is, by what lies in it.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / description.NAME).exists():
        raise DataError(f"{root}: is packed already; use it as it is")
    if (root / workplace.NOTES).exists():
        raise DataError(f"{root}: is not packed to its end; run the same command again to go on with that")
    if (root / TRAIN).exists() or (root / VAL).exists():
        return ImageNetArchives(root)
    if files_below(root, "*.parquet"):
        from hvd_imagenet.data.sources.parquet import ParquetFolder  # takes a while, and nobody else needs it

        return ParquetFolder(root)
    if files_below(root, "*.tar"):
        return WebDatasetShards(root)
    if (root / "train").is_dir() or (root / "val").is_dir():
        return ImageFolder(root, follow_links)
    raise DataError(f"{root}: not a data set that is known; name the folder of {KNOWN}")
