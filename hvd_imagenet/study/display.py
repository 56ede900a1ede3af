"""How far a study is: bars on a terminal, elsewhere a line for the beginning and the end of each run."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from hvd_imagenet.study.definition import Run
from hvd_imagenet.study.folder import StudyFolder
from hvd_imagenet.study.job import samples_seen

UPDATE_SECONDS = 1


class Display:
    """Shows a study as it goes, from `__enter__` to `__exit__`.

    Args:
        folder: of the study; prepared.
        console: where to show it; by default the standard output.
    """

    def __init__(self, folder: StudyFolder, console: Console | None = None):
        self._folder = folder
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._policies = {run.name: folder.study.policy(run.arm) for run in folder.study.runs()}
        self._done = {run.name for run in folder.done()}
        self._seen = dict.fromkeys(self._policies, 0)
        for name in self._policies:
            self._look(name)
        self._began, self._before = time.monotonic(), sum(self._seen.values())
        self._updated = self._began
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[told]}")
        self._bars = Progress(*columns, console=self._console, expand=True, transient=True)
        self._all = self._bars.add_task(self._count(), total=self._wanted(), told="")
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self.say(f"{len(self._policies)} runs in {self._folder.path}, {len(self._done)} done")
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """A line for people, above the bars if there are any."""
        self._console.print(text, markup=False)

    def begin(self, run: Run) -> None:
        """A run begins, or goes on."""
        total = self._policies[run.name].last_sample
        self._running[run.name] = self._bars.add_task(run.name, total=total, told="")
        if not self._console.is_terminal:
            self.say(f"{run.name}: {'goes on' if self._seen[run.name] else 'begins'}")

    def end(self, run: Run, outcome: str, done: bool) -> None:
        """A run has ended, here or elsewhere.

        Args:
            outcome: in a few words.
            done: it has its result.
        """
        if run.name in self._running:
            self._bars.remove_task(self._running.pop(run.name))
        if done:
            self._done.add(run.name)
        self._look(run.name)
        self.say("; ".join(filter(None, [f"{run.name}: {outcome}", self._count(), self._left()])))

    def update(self) -> None:
        """Look how far the runs are, now and then."""
        if not self._console.is_terminal or time.monotonic() - self._updated < UPDATE_SECONDS:
            return
        self._updated = time.monotonic()
        left = self._left()
        for name, task in self._running.items():
            seen, policy = self._seen[name], self._policies[name]
            told = f"epoch {seen / policy.dataset_size:.1f} of {policy.epochs:g}"
            self._bars.update(task, completed=seen, told=told)
        self._bars.update(self._all, completed=sum(self._seen.values()), description=self._count(), told=left)

    def _look(self, name: str) -> None:
        done = name in self._done
        self._seen[name] = self._policies[name].last_sample if done else samples_seen(self._folder.path / name)

    def _count(self) -> str:
        return f"{len(self._done)} of {len(self._policies)} runs done"

    def _wanted(self) -> int:
        return sum(policy.last_sample for policy in self._policies.values())

    def _left(self) -> str:
        """How long the rest takes at the speed since the beginning; empty: not known, or nothing is left."""
        for name in self._running:
            self._look(name)
        seen = sum(self._seen.values())
        speed, rest = (seen - self._before) / (time.monotonic() - self._began), self._wanted() - seen
        return f"{timedelta(seconds=round(rest / speed))} left" if speed > 0 and rest else ""
