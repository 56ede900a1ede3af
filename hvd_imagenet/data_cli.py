"""hvd-imagenet data: making data sets, verifying them and looking at them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from concurrent.futures import Executor
from decimal import Decimal
from pathlib import Path

import numpy as np
from rich.console import Console

from hvd_imagenet.arguments import Parser
from hvd_imagenet.data.pack import ODDITIES, REJECTS, Options, pack
from hvd_imagenet.data.packing.examining import Report
from hvd_imagenet.data.packing.workers import executor
from hvd_imagenet.data.sources import Source
from hvd_imagenet.data.sources.fashion_mnist import DEBIAN_FOLDER, FashionMnist
from hvd_imagenet.data.sources.opening import KNOWN, open_source
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.data.verify import Verification
from hvd_imagenet.data_progress import shown
from hvd_imagenet.errors import DataError, SettingsError, in_one_line


def main(arguments: list[str]) -> None:
    """Run ``hvd-imagenet data`` with these arguments."""
    parser = Parser(prog="hvd-imagenet data", description="Make data sets, verify them and look at them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    packing = commands.add_parser(
        "pack",
        help="pack images into tar shards with an index, each of them verified",
        description=f"Packs {KNOWN}. Images that cannot be decoded are left out and listed in {REJECTS}, unusual ones "
        f"are listed in {ODDITIES}. If it is cut short, run the same command again to go on. Under mpirun, the hosts "
        "share the work.",
    )
    packing.add_argument("source", metavar="SRC", type=Path, help="the folder with the images or archives")
    _add_destination(packing)
    packing.add_argument(
        "--shorter-side", metavar="N", type=_at_least_1, help="reduce larger images to that many pixels"
    )
    packing.add_argument("--quality", metavar="Q", type=_quality, help="of the JPEGs so made, 1 to 100 (default: 95)")
    packing.add_argument("--shard-size", metavar="MIB", type=_at_least_1, default=256,
                         help="images in a shard, in MiB as they come from SRC (default: %(default)s)")  # fmt: skip
    packing.add_argument("--limit", metavar="N", type=_at_least_1, help="take N images of each split, at random")
    packing.add_argument("--max-rejects", metavar="SHARE", type=_share, default=Decimal("0.001"),
                         help="how many images may be left out (default: 0.1%%)")  # fmt: skip
    packing.add_argument(
        "--follow-links", action="store_true", help="take what links in SRC lead to outside of it, too"
    )
    _add_workers(packing)
    packing.set_defaults(command=_pack_source)

    fashion = commands.add_parser("fashion-mnist", help="Fashion-MNIST as JPEGs, packed")
    _add_destination(fashion)
    fashion.add_argument(
        "--idx-dir",
        metavar="FOLDER",
        type=Path,
        default=DEBIAN_FOLDER,
        help="holds the four *-ubyte.gz files (default: %(default)s, of the Debian package dataset-fashion-mnist)",
    )
    fashion.set_defaults(command=_pack_fashion_mnist)

    verifying = commands.add_parser(
        "verify",
        help="decode every image of a data set",
        description="Decodes every image by the decoder that training uses, and compares a packed set with its "
        "checksums. Changes nothing; ends with 3 if an image cannot be used.",
    )
    verifying.add_argument("path", metavar="PATH", type=Path, help="a packed data set, or all that pack reads")
    verifying.add_argument("-o", metavar="FILE", type=Path, help="write all findings to FILE, as lines of JSON")
    _add_workers(verifying)
    verifying.set_defaults(command=_verify)

    info = commands.add_parser("info", help="what is in a data set")
    info.add_argument("path", metavar="PATH", help="a packed data set or its URL, or a folder of class folders")
    info.set_defaults(command=lambda options: _info(options.path))

    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except BrokenPipeError:  # | head
        raise
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read or written ({error.strerror})") from None


def _add_destination(parser: Parser) -> None:
    parser.add_argument("destination", metavar="DST", type=Path, help="the data set's folder, made by this command")


def _add_workers(parser: Parser) -> None:
    parser.add_argument("--workers", metavar="N", type=_at_least_1, help="processes (default: one per core)")


def _at_least_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}; give a whole number of 1 or more")
    return int(text)


def _quality(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text}; give a whole number from 1 to 100")
    return int(text)


def _share(text: str) -> Decimal:
    """A share such as 0.1% or 0.001."""
    try:
        share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 <= share <= 1:
            return share
    except ArithmeticError:
        pass  # no number
    raise argparse.ArgumentTypeError(f"{text}; give a share such as 0.1%")


def _pack_source(options: argparse.Namespace) -> None:
    if options.quality and not options.shorter_side:
        raise SettingsError("--quality: is that of reduced images; give --shorter-side, too, or leave it out")
    how = Options(options.shard_size * 2**20, options.shorter_side, options.quality or 95, options.limit)
    if options.destination.resolve().is_relative_to(options.source.resolve()):
        raise SettingsError(f"{options.destination}: lies in {options.source}, which is read; name another folder")
    with executor(options.workers) as pool:
        if pool:  # under mpirun, the first process sees to the work, and the others do it
            source = open_source(options.source, options.follow_links)
            _pack(source, options.destination, pool, how, options.max_rejects)


def _pack_fashion_mnist(options: argparse.Namespace) -> None:
    with executor(None) as pool:
        if pool:
            _pack(FashionMnist(options.idx_dir), options.destination, pool, Options(), Decimal(0))


def _pack(source: Source, destination: Path, pool: Executor, options: Options, max_rejects: Decimal) -> None:
    counts = {split: min(len(items), options.limit or len(items)) for split, items in source.splits.items()}
    try:
        with shown(counts) as progress:
            pack(source, destination, pool, options, max_rejects, progress)
    except KeyboardInterrupt:
        _say(f"{destination}: is not packed to its end; run the same command again to go on", stderr=True)
        raise
    for name, what in ((REJECTS, "left out"), (ODDITIES, "unusual")):
        lines = [json.loads(line) for line in (destination / name).read_text().splitlines()]
        _say_kinds(what, lines, sum(counts.values()), f"; see {destination / name}")
    packed = ", ".join(f"{len(open_store(destination, split)):,} {split}" for split in counts)
    _say(f"{destination}: {packed} images in {len(source.classes)} classes")


def _verify(options: argparse.Namespace) -> None:
    with executor(options.workers) as pool:
        if not pool:
            return
        verification = Verification(options.path)
        with shown(verification.counts()) as progress:
            found = verification.run(pool, progress)
    rejected = [line for report in found.values() for line in report.rejected]
    odd = [line for report in found.values() for line in report.odd]
    if options.o:
        _write_findings(options.o, found)
    for line in rejected:
        _say(f"{line['name']}: {line['reason']}")
    total = sum(verification.counts().values())
    _say_kinds("unusual", odd, total, f"; see {options.o}" if options.o else "; -o FILE lists them")
    if rejected:
        raise DataError(
            f"{options.path}: {len(rejected):,} of {total:,} images cannot be used, as listed above; repair or remove "
            "them, or pack the rest"
        )
    _say(f"{options.path}: all {total:,} images can be used")


def _write_findings(file: Path, found: dict[str, Report]) -> None:
    try:
        with file.open("w") as opened:
            for split, report in found.items():
                for line in (*report.rejected, *report.odd):
                    opened.write(json.dumps({"split": split, **line}) + "\n")
    except OSError as error:
        raise SettingsError(f"-o: {file}; cannot be written ({error.strerror})") from None


def _say_kinds(what: str, lines: list[dict], total: int, where: str) -> None:
    """How many images are rejected or unusual, and why: by the kind, without what differs from image to image."""
    kinds = Counter(kind.partition(":")[0] for line in lines for kind in line.get("oddities", [line.get("reason")]))
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common() if count < total)
    if listed:  # what all images are is not unusual
        _say(f"{what}: {len(lines):,} images ({listed}){where}")


def _say(line: str, stderr: bool = False) -> None:
    """Print a line that names of files and classes in it cannot break."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=True)
    console.print(in_one_line(line), markup=False)


def _info(path: str) -> None:
    splits = {split: open_store(path, split) for split in ("train", "val")}
    classes = splits["train"].classes
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    _say(f"{path}: {len(classes)} classes ({shown})")
    for split, store in splits.items():
        _say(f"{split:>5}: {_describe(store)}")


def _describe(store: Store) -> str:
    counts = np.zeros(len(store.classes), np.int64)
    shorter, longer = Counter(), Counter()
    for part in store.parts():
        counts += np.bincount(store.labels[part], minlength=len(counts))
        sizes = store.sizes(part)
        for sides, found in ((shorter, sizes.min(1)), (longer, sizes.max(1))):
            sides.update(dict(zip(*map(np.ndarray.tolist, np.unique(found, return_counts=True)), strict=True)))
    return (
        f"{len(store):,} images, {counts.min():,} to {counts.max():,} per class, "
        f"{store.encoded_bytes() / 2**20:,.1f} MiB, "
        f"sides {min(shorter)} to {max(longer)} pixels, median {_median(shorter):.0f} x {_median(longer):.0f}"
    )


def _median(counted: Counter[int]) -> float:
    """The median of values that are counted; of an even number, the mean of the two in the middle."""
    values = sorted(counted)
    ends = np.cumsum([counted[value] for value in values])
    middle = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
    return np.mean([values[place] for place in middle])
