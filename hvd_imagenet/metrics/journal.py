"""The journal of a run: everything it tells goes to all who listen, and keeps no step waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Listener:
    """Hears what a run tells of itself, and does nothing about it: to be overridden in part.

    Attributes:
        waited_for: a checkpoint is not written before what was told is on the disk.
    """

    waited_for = True

    def say(self, text: str) -> None:
        """A line for people."""

    def begin(self, values: dict[str, Any]) -> None:
        """The first step of this job comes next."""

    def step(self, values: dict[str, Any]) -> None:
        """A logged step."""

    def evaluating(self, values: dict[str, Any]) -> None:
        """An evaluation begins."""

    def evaluation(self, values: dict[str, Any]) -> None:
        """An evaluation is done."""

    def restart(self, values: dict[str, Any]) -> None:
        """The run goes on from a checkpoint."""

    def done(self, values: dict[str, Any]) -> None:
        """The run has come to its end, with this result."""

    def failed(self, reason: str) -> None:
        """The job ends before its run does; people are told elsewhere."""

    def flush(self) -> None:
        """Bring what has been told to the disk."""

    def close(self) -> None:
        """Nothing more comes."""


class Journal(Listener):
    """Passes everything on to listeners, to each in its order, on a thread of its own.

    So neither a terminal that somebody has halted nor a slow file server keeps a step waiting. `flush` waits for all
    that say so, `close` for all.

    Args:
        listeners: of rank 0; other workers have none.
    """

    def __init__(self, listeners: Sequence[Listener] = ()):
        self._threads = [(listener, ThreadPoolExecutor(1, "journal")) for listener in listeners]
        self._under_way: deque[Future] = deque()

    def say(self, text: str) -> None:
        self._tell("say", text)

    def begin(self, values: dict[str, Any]) -> None:
        self._tell("begin", values)

    def step(self, values: dict[str, Any]) -> None:
        self._tell("step", values)

    def evaluating(self, values: dict[str, Any]) -> None:
        self._tell("evaluating", values)

    def evaluation(self, values: dict[str, Any]) -> None:
        self._tell("evaluation", values)

    def restart(self, values: dict[str, Any]) -> None:
        self._tell("restart", values)

    def done(self, values: dict[str, Any]) -> None:
        self._tell("done", values)

    def failed(self, reason: str) -> None:
        self._tell("failed", reason)

    def flush(self) -> None:
        told = self._tell("flush")
        for (listener, _), future in zip(self._threads, told, strict=True):
            if listener.waited_for:
                future.result()

    def close(self) -> None:
        for future in self._tell("close"):
            future.result()
        for _, thread in self._threads:
            thread.shutdown()
        self._raise_faults()

    def _tell(self, what: str, *values: Any) -> list[Future]:
        self._raise_faults()
        told = [thread.submit(getattr(listener, what), *values) for listener, thread in self._threads]
        self._under_way += told
        return told

    def _raise_faults(self) -> None:
        """A listener that fails is a fault of the program, and not to be hidden."""
        for _ in range(len(self._under_way)):
            future = self._under_way.popleft()
            if future.done():
                future.result()
            else:
                self._under_way.append(future)
