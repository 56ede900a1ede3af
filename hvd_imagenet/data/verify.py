"""Verifying a data set: every image decoded, every file compared with what dataset.json says of it; nothing changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from hvd_imagenet.data import description
from hvd_imagenet.data.description import Description
from hvd_imagenet.data.index import SplitIndex
from hvd_imagenet.data.packing.examining import Report, usable
from hvd_imagenet.data.packing.tasks import Progress, done
from hvd_imagenet.data.sources import FileReader, Item, Reader
from hvd_imagenet.data.sources.opening import open_source
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError

CHANGED = "is not as it was packed (its checksum is another)"
AT_ONCE = 1024  # images in a task of a source that has no shards


@dataclass(frozen=True)
class CheckTask:
    """Items to be looked at.

    Attributes:
        reader, items: the images.
        file: the shard that they lie in; sha256: what its checksum should be. None: there is no such thing.
    """

    reader: Reader
    items: list[Item]
    file: Path | None = None
    sha256: str | None = None

    def finished(self) -> None:
        return None

    def counted(self) -> int:
        return 0

    def run(self) -> Report:
        report = Report()
        if self.file and _checksum(self.file) != self.sha256:
            report.rejected.append({"name": str(self.file), "label": None, "reason": CHANGED})
        for _ in usable(self.reader, self.items, report):
            pass
        return report


class Verification:
    """A data set to be looked at: a packed one, or all that ``data pack`` reads.

    Args:
        path: its folder.

    Attributes:
        tasks: the work, by split.

    Raises:
        DataError: there is none, or it is damaged so that it cannot be opened.
    """

    def __init__(self, path: Path):
        self.tasks: dict[str, list[CheckTask]] = {}
        name = path / description.NAME
        if name.exists():
            data_set = description.parse(name.read_bytes(), str(name))
            for split in data_set.splits:
                self.tasks[split] = list(self._packed(path, split, data_set))
            return
        source = open_source(path, follow_links=True)
        for split, items in source.splits.items():
            parts = (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
            self.tasks[split] = [CheckTask(source.reader, part) for part in parts]

    def counts(self) -> dict[str, int]:
        """How many images each split has."""
        return {split: sum(len(task.items) for task in tasks) for split, tasks in self.tasks.items()}

    def run(self, executor: Executor, progress: Progress) -> dict[str, Report]:
        """What is found out about each split.

        Raises:
            DataError: a file cannot be read.
        """
        merged = {split: Report() for split in self.tasks}
        for split, reports in done(self.tasks, executor, progress).items():
            for report in reports:
                merged[split].rejected += report.rejected
                merged[split].odd += report.odd
        return merged

    def _packed(self, path: Path, split: str, data_set: Description) -> Iterator[CheckTask]:
        store = open_store(path, split)
        file = path / split / "index.npz"
        if _checksum(file) != data_set.splits[split].index_sha256:
            raise DataError(f"{file}: {CHANGED}; make the data set again")
        index, first = SplitIndex.load(file), 0
        if index.contents(data_set.classes) != data_set.splits[split].contents:
            name = path / description.NAME
            raise DataError(f"{name}: its classes are not those of {file}, as it was packed; make the data set again")
        for shard in data_set.splits[split].shards:
            numbers = range(first, first + shard.samples)
            items = [
                Item(store.name(n), int(index.label[n]), int(index.length[n]), (shard.name, int(index.offset[n])))
                for n in numbers
            ]
            yield CheckTask(FileReader(path), items, path / shard.name, shard.sha256)
            first += shard.samples


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
