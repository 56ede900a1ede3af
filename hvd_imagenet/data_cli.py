"""hvd-imagenet data: making data sets and looking at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hvd_imagenet.arguments import Parser
from hvd_imagenet.data.pack import pack
from hvd_imagenet.data.sources import Source
from hvd_imagenet.data.sources.fashion_mnist import DEBIAN_FOLDER, FashionMnist
from hvd_imagenet.data.sources.folder import ImageFolder
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.errors import DataError


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet data`` with these arguments."""
    parser = Parser(prog="hvd-imagenet data", description="Make data sets and look at them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    packing = commands.add_parser("pack", help="pack train/CLASS/* and val/CLASS/* into tar shards with an index")
    packing.add_argument("source", metavar="SRC", type=Path, help="a folder with train/CLASS/* and val/CLASS/*")
    packing.add_argument("destination", metavar="DST", type=Path, help="the data set's folder, made by this command")
    packing.set_defaults(command=lambda options: _pack(_image_folder(options.source), options.destination))

    fashion = commands.add_parser("fashion-mnist", help="Fashion-MNIST as JPEGs, packed")
    fashion.add_argument("destination", metavar="DST", type=Path, help="the data set's folder, made by this command")
    fashion.add_argument(
        "--idx-dir",
        metavar="FOLDER",
        type=Path,
        default=DEBIAN_FOLDER,
        help="holds the four *-ubyte.gz files (default: %(default)s, of the Debian package dataset-fashion-mnist)",
    )
    fashion.set_defaults(command=lambda options: _pack(FashionMnist(options.idx_dir), options.destination))

    info = commands.add_parser("info", help="what is in a data set")
    info.add_argument("path", metavar="PATH", help="a packed data set or its URL, or a folder of class folders")
    info.set_defaults(command=lambda options: _info(options.path))

    options = parser.parse_args(arguments)
    options.command(options)


def _image_folder(root: Path) -> ImageFolder:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return ImageFolder(root)


def _pack(source: Source, destination: Path) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(highlight=False, soft_wrap=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {split: bar.add_task(split, total=count) for split, count in source.counts.items()}
        pack(source, destination, progress=lambda split, done: bar.update(tasks[split], completed=done))
    counts = ", ".join(f"{count:,} {split}" for split, count in source.counts.items())
    console.print(f"{destination}: {counts} images in {len(source.classes)} classes", markup=False)


def _info(path: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    splits = {split: open_store(path, split) for split in ("train", "val")}
    classes = splits["train"].classes
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    console.print(f"{path}: {len(classes)} classes ({shown})", markup=False)
    for split, store in splits.items():
        console.print(f"{split:>5}: {_describe(store)}", markup=False)


def _describe(store: Store) -> str:
    counts = np.bincount(store.labels, minlength=len(store.classes))
    sizes = store.sizes(slice(None))
    shorter, longer = sizes.min(1), sizes.max(1)
    return (
        f"{len(store):,} images, {counts.min():,} to {counts.max():,} per class, "
        f"{store.encoded_bytes() / 2**20:,.1f} MiB, "
        f"sides {shorter.min()} to {longer.max()} pixels, median {np.median(shorter):.0f} x {np.median(longer):.0f}"
    )
