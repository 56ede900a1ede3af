"""Packing a source: WebDataset-compatible tar shards, an index for random access, and dataset.json."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from hvd_imagenet.data.description import Description, Shard, Split
from hvd_imagenet.data.index import SplitIndex
from hvd_imagenet.data.packing.shards import ShardReport, ShardTask
from hvd_imagenet.data.packing.tasks import Progress, done
from hvd_imagenet.data.packing.workplace import Workplace
from hvd_imagenet.data.sources import Item, Reader, Source
from hvd_imagenet.data.sources.folder import in_threads
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import DataError
from hvd_imagenet.stream import shuffled

REJECTS, ODDITIES = "rejects.jsonl", "oddities.jsonl"


@dataclass(frozen=True)
class Options:
    """How images are packed; all that decides on what the files hold.

    Attributes:
        shard_bytes: of the images in a shard, as they come from the source: cut where it is reached.
        shorter_side: to which larger images are reduced, in pixels; None: images stay as they are.
        quality: of the JPEGs that reduced images become.
        limit: how many images are taken of each split, at random; None: all.
    """

    shard_bytes: int = 256 * 2**20
    shorter_side: int | None = None
    quality: int = 95
    limit: int | None = None


def pack(
    source: Source,
    destination: Path,
    executor: Executor,
    options: Options = Options(),  # noqa: B008
    max_rejects: Decimal | float = Decimal("0.001"),  # noqa: B008
    progress: Progress = lambda split, images, rejected: None,
) -> None:
    """Write a source as a packed data set; where that has been begun and cut short, go on with it.

    The files hold the same bytes however many processes did it, and however often it was cut short. Images that
    training could not decode are left out and written to ``rejects.jsonl``; unusual ones to ``oddities.jsonl``.

    Args:
        destination: a folder that does not exist yet, is empty, or holds what an earlier call has begun.
        executor: what does the work.
        max_rejects: the share of images that may be left out.
        progress: told how far each split is, in images.

    Raises:
        SettingsError: the destination is in use, or was begun with another source or other options.
        DataError: the source is damaged, the disk full, or too many images cannot be decoded.
    """
    chosen = {split: _chosen(split, items, options.limit) for split, items in source.splits.items()}
    workplace = Workplace(destination, _identity(source, chosen, options), _state(source, chosen))
    with workplace.claimed() as unfinished:
        if not unfinished:
            return
        tasks = {
            split: list(_tasks(workplace, source.reader, split, items, options)) for split, items in chosen.items()
        }
        workplace.require_space(0 if options.shorter_side else _bytes_left(tasks))
        try:
            reports = done(tasks, executor, progress)
            _finish(workplace, source, tasks, reports, max_rejects)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space, and run the same command again to go on" if full else "run it again to go on"
            raise DataError(f"{destination}: cannot be written ({error.strerror}); {remedy}") from None


def _chosen(split: str, items: list[Item], limit: int | None) -> list[Item]:
    """The items that are packed. Training images are mixed already; of others, a few at random, in their order."""
    if limit is None or limit >= len(items):
        return items
    return [items[number] for number in sorted(shuffled(0, f"limit/{split}", len(items))[:limit].tolist())]


def _identity(source: Source, chosen: dict[str, list[Item]], options: Options) -> dict[str, Any]:
    """What must be the same for a packing to go on: the source and all that decides on the files."""
    digest = hashlib.sha256(json.dumps(source.classes).encode())
    for split, items in chosen.items():
        for item in items:
            digest.update(json.dumps([split, item.label, item.length, item.place]).encode())
    return {"source": source.description, "items": digest.hexdigest(), "options": dataclasses.asdict(options)}


def _state(source: Source, chosen: dict[str, list[Item]]) -> str:
    """A digest of when the source's files were changed: one may be repaired and be as long as before."""
    files = dict.fromkeys(source.reader.file(item) for items in chosen.values() for item in items)
    digest = hashlib.sha256()
    for changed in in_threads(_changed, list(files)):
        digest.update(b"%d " % changed)
    return digest.hexdigest()


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); repair or remove it") from None


def _tasks(
    workplace: Workplace, reader: Reader, split: str, items: list[Item], options: Options
) -> Iterator[ShardTask]:
    """A split, cut into shards."""
    for number, (first, stop) in enumerate(_cuts(items, options.shard_bytes)):
        shard = workplace.folder / split / f"shard-{number:06d}.tar"
        report = workplace.notes / f"{split}-{number:06d}.json"
        yield ShardTask(reader, items[first:stop], first, shard, report, options.shorter_side, options.quality)


def _cuts(items: list[Item], shard_bytes: int) -> Iterator[tuple[int, int]]:
    """Where shards begin and end: told by the source alone, and not by what will be rejected or reduced."""
    first, taken = 0, 0
    for number, item in enumerate(items, 1):
        taken += item.length
        if taken >= shard_bytes or number == len(items):
            yield first, number
            first, taken = number, 0


def _bytes_left(tasks: dict[str, list[ShardTask]]) -> int:
    """Of the images that are not packed yet."""
    left = [task for found in tasks.values() for task in found if not task.report.exists()]
    return sum(item.length for task in left for item in task.items)


def _finish(
    workplace: Workplace,
    source: Source,
    tasks: dict[str, list[ShardTask]],
    reports: dict[str, list[ShardReport]],
    max_rejects: Decimal | float,
) -> None:
    """Write what is told of all shards together; ``dataset.json`` last, which makes a data set of them."""
    folder = workplace.folder
    for name, field in ((REJECTS, "rejected"), (ODDITIES, "odd")):
        found = [(split, line) for split in reports for report in reports[split] for line in getattr(report, field)]
        lines = [json.dumps({"split": split, **line}) for split, line in found]
        write_whole(folder / name, "".join(f"{line}\n" for line in lines).encode())
    _require_few_rejects(folder, tasks, reports, max_rejects)
    splits = {split: _write_index(folder, split, source, tasks[split], found) for split, found in reports.items()}
    Description(**workplace.identity, classes=source.classes, splits=splits).save(folder)


def _require_few_rejects(
    folder: Path, tasks: dict[str, list[ShardTask]], reports: dict[str, list[ShardReport]], max_rejects: Decimal | float
) -> None:
    for split, found in reports.items():
        if not any(len(report.rows) for report in found):
            raise DataError(f"{folder / REJECTS}: none of the images of {split} can be used; is it the right source?")
    rejected = [line for found in reports.values() for report in found for line in report.rejected]
    total = sum(len(task.items) for found in tasks.values() for task in found)
    if len(rejected) > max_rejects * total:
        first = rejected[0]
        enough = -(-10_000 * len(rejected) // total)  # hundredths of a per cent, rounded up
        raise DataError(
            f"{folder / REJECTS}: {len(rejected):,} of {total:,} images cannot be used ({len(rejected) / total:.2%}), "
            f"such as {first['name']}: {first['reason']}; repair them and pack into another folder, or to leave them "
            f"out, run the same command again with --max-rejects {enough / 100:.2f}%"
        )


def _write_index(folder: Path, split: str, source: Source, tasks: list[ShardTask], reports: list[ShardReport]) -> Split:
    filled = [(task.shard, report) for task, report in zip(tasks, reports, strict=True) if len(report.rows)]
    for shard, report in filled:
        if not shard.exists() or shard.stat().st_size != report.bytes:
            raise DataError(f"{shard}: was written on {report.host}, but is not here; name a folder that all hosts see")
    shard_samples = [len(report.rows) for _, report in filled]
    columns = np.concatenate([report.rows for _, report in filled]).T
    index = SplitIndex.from_columns(np.repeat(np.arange(len(filled)), shard_samples), *columns)
    path = folder / split / "index.npz"
    index.save(path)
    data = path.read_bytes()
    files = [Shard(f"{split}/{shard.name}", report.bytes, len(report.rows), report.sha256) for shard, report in filled]
    return Split(len(index), index.contents(source.classes), len(data), hashlib.sha256(data).hexdigest(), files)
