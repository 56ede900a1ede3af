"""Finding out what kind of source a folder is."""

from __future__ import annotations

from pathlib import Path

from hvd_imagenet.data import description
from hvd_imagenet.data.packing import workplace
from hvd_imagenet.data.sources import Source
from hvd_imagenet.data.sources.folder import ImageFolder, has_class_folders
from hvd_imagenet.data.sources.imagenet import DEVKIT, KAGGLE, TRAIN, VAL, ImageNetArchives
from hvd_imagenet.data.sources.shards import files_below
from hvd_imagenet.data.sources.webdataset import WebDatasetShards
from hvd_imagenet.errors import DataError

KNOWN = (
    f"class folders (train/CLASS/*, val/CLASS/*), ILSVRC2012's archives ({TRAIN}, {VAL}, and {DEVKIT}.tar.gz or "
    f"Kaggle's {KAGGLE}), WebDataset tar shards, or Hugging Face's Parquet files"
)


def open_source(root: Path, follow_links: bool = False) -> Source:
    """The source that a folder is, by what lies in it.

    Args:
        follow_links: take what symbolic links in it lead to outside of it, too.

    Raises:
        DataError: there is none, there are two, or it is damaged.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / description.NAME).exists():
        raise DataError(f"{root}: is packed already; use it as it is")
    if (root / workplace.NOTES).exists():
        raise DataError(f"{root}: is not packed to its end; run the same command again to go on with that")
    archives = (root / TRAIN).exists() or (root / VAL).exists()
    folders = has_class_folders(root)
    parquet, tars = (bool(files_below(root, pattern)) for pattern in ("*.parquet", "*.tar"))
    kinds = {"archives or tar shards": archives or tars, "Parquet files": parquet, "class folders": folders}
    found = [kind for kind, there in kinds.items() if there]
    if len(found) > 1:
        raise DataError(f"{root}: holds {' and '.join(found)}; move all but one of these to folders of their own")
    if archives:
        return ImageNetArchives(root, follow_links)
    if parquet:
        from hvd_imagenet.data.sources.parquet import ParquetFolder  # takes a while, and nobody else needs it

        return ParquetFolder(root, follow_links)
    if tars:
        return WebDatasetShards(root, follow_links)
    if (root / "train").is_dir() or (root / "val").is_dir():
        return ImageFolder(root, follow_links)
    raise DataError(f"{root}: not a data set that is known; name the folder of {KNOWN}")
