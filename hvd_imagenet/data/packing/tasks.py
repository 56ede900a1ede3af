"""Having tasks done by an executor: those that are not done yet, with word of how far they are."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Any, Protocol

from hvd_imagenet.data.packing.examining import Report
from hvd_imagenet.data.sources import Item
from hvd_imagenet.errors import DataError

Progress = Callable[[str, int, int], Any]  # told a split, its images done, and those of them that were rejected
LOOK_SECONDS = 0.5


class Task(Protocol):
    """A piece of work on some items."""

    items: list[Item]

    def finished(self) -> Report | None:
        """The report, if it is done already."""

    def counted(self) -> int:
        """How many images are done, while it goes on."""

    def run(self) -> Report:
        """Do it; in another process."""


def done(tasks: dict[str, list[Task]], executor: Executor, progress: Progress) -> dict[str, list[Report]]:
    """The reports on all tasks of all splits, in their order.

    Raises:
        DataError: of a task, or because a process was killed.
        OSError: of a task.
    """
    reports = {split: [task.finished() for task in found] for split, found in tasks.items()}
    waiting: dict[Future, tuple[str, int]] = {}
    try:
        for split, found in tasks.items():
            for number, task in enumerate(found):
                if reports[split][number] is None:
                    waiting[executor.submit(_run, task)] = split, number
        while True:
            running = {place for future, place in waiting.items() if future.running()}
            for split, found in tasks.items():
                counted = sum(task.counted() for number, task in enumerate(found) if (split, number) in running)
                progress(split, *_far(found, reports[split], counted))
            if not waiting:
                return reports
            for future in wait(waiting, LOOK_SECONDS, FIRST_COMPLETED).done:
                split, number = waiting.pop(future)
                reports[split][number] = future.result()
    except BrokenExecutor:
        raise DataError(
            "a process was killed while it worked (by the system, for want of memory?); run the same command again, "
            "with fewer --workers"
        ) from None
    finally:
        for future in waiting:
            future.cancel()


def _run(task: Task) -> Report:
    return task.run()


def _far(tasks: list[Task], reports: list[Report | None], counted: int) -> tuple[int, int]:
    """How many images of these tasks are done, with those counted of unfinished ones, and how many rejected."""
    finished = [(task, report) for task, report in zip(tasks, reports, strict=True) if report]
    images = sum(len(task.items) for task, _ in finished)
    return images + counted, sum(len(report.rejected) for _, report in finished)
