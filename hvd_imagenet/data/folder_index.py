"""The index of a plain folder of class folders: made once, kept beside the data, renewed when a folder changes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from hvd_imagenet.data.index import SplitIndex, image_size
from hvd_imagenet.data.sources.folder import class_names, image_files, in_threads
from hvd_imagenet.errors import DataError

FORMAT = 3  # of the kept index, the order of its samples, and which files may be among them
WORTH_A_BAR = 10_000  # images; fewer are indexed before a bar could be read


def open_or_make(root: Path, split: str) -> tuple[list[str], SplitIndex, list[str]]:
    """Classes, index and files (one image each) of a split; read from the kept index if it still holds.

    The index lies in ``ROOT/.hvd_imagenet``, or where that cannot be written, in the user's cache.
    """
    classes = class_names(root)
    stamp = _stamp(root, split, classes)
    for place in _places(root):
        try:
            kept = json.loads((place / f"{split}.json").read_text())
            if kept["stamp"] == stamp:
                return classes, SplitIndex.load(place / f"{split}.npz"), kept["files"]
        except (OSError, ValueError, KeyError, DataError):
            continue  # no index here, or no use: it is made again below
    files, labels = image_files(root, split, classes)
    index = _index(root, files, labels)
    _keep(root, split, stamp, index, files)
    return classes, index, files


def _stamp(root: Path, split: str, classes: list[str]) -> str:
    """A digest of names and modification times of the class folders: files that come or go change it."""
    folders = [root / split / name for name in classes]
    state = [(folder.name, folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()]
    return hashlib.sha256(json.dumps([FORMAT, state]).encode()).hexdigest()


def _index(root: Path, files: list[str], labels: list[int]) -> SplitIndex:
    def row(number: int) -> tuple[int, int, int, int, int, int]:
        file = root / files[number]
        return number, 0, file.stat().st_size, labels[number], *image_size(file)

    rows = in_threads(row, range(len(files)))
    console = Console(stderr=True)
    disable = len(files) < WORTH_A_BAR
    shown = track(rows, f"indexing {escape(str(root))}", len(files), console=console, transient=True, disable=disable)
    return SplitIndex.from_rows(list(shown))


def _places(root: Path) -> list[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    digest = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return [root / ".hvd_imagenet", cache / "hvd_imagenet" / "folders" / digest]


def _keep(root: Path, split: str, stamp: str, index: SplitIndex, files: list[str]) -> None:
    for place in _places(root):
        try:
            place.mkdir(parents=True, exist_ok=True)
            scratch = place / f"{split}.{os.getpid()}"
            index.save(scratch)
            scratch.replace(place / f"{split}.npz")
            scratch.write_text(json.dumps({"stamp": stamp, "files": files}))
            scratch.replace(place / f"{split}.json")  # last: the stamp vouches for both
            return
        except OSError:
            continue  # read-only or full: the next place, or no index kept, which costs time only
