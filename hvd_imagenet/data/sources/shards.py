"""Which files of a folder are shards, tars or Parquet files, and of which split."""

from __future__ import annotations

import re
from pathlib import Path

from hvd_imagenet.data.sources import require_inside
from hvd_imagenet.errors import DataError

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}


def files_below(root: Path, pattern: str) -> list[Path]:
    """Files in a folder or its folders, by their paths below it, sorted: no deeper, where a million images may be."""
    found = [path.relative_to(root) for path in (*root.glob(pattern), *root.glob(f"*/{pattern}"))]
    return sorted(path for path in found if not _hidden(path))


def shards_of(root: Path, pattern: str, follow_links: bool) -> dict[str, list[Path]]:
    """The shards of ``train`` and ``val`` (or ``validation``), which are told by the names of files or folders.

    Those of ``test`` are none of ours; of all others it must be known what they are.

    Args:
        follow_links: take what a symbolic link leads to outside of `root`, too.

    Raises:
        DataError: none of a split, or one that is of neither, too deep in folders, or led to by a link out of `root`.
    """
    found: dict[str, list[Path]] = {"train": [], "val": []}
    for path in files_below(root, pattern):
        words = set(re.split(r"[^a-z]+", "/".join(path.parts).lower()))
        splits = {SPLITS[word] for word in words if word in SPLITS}
        if not follow_links:
            require_inside(root / path, root)
        if len(splits) == 1:
            found[splits.pop()].append(path)
        elif splits or "test" not in words:
            which = "both train and val" if splits else "neither train nor val"
            raise DataError(f"{root / path}: is of {which} by its name; rename it, or move it out of {root}")
    for split, shards in found.items():
        if not shards:
            raise DataError(f"{root}: has no {pattern} of {split}; {split} must be in the names of files or folder")
    _require_no_deeper(root, pattern)
    return found


def _require_no_deeper(root: Path, pattern: str) -> None:
    for path in root.glob(f"*/*/**/{pattern}"):
        if not _hidden(path.relative_to(root)):
            raise DataError(f"{path}: is too deep in folders; shards belong in {root} or in folders of it")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
