"""The journal of a run: everything it tells goes to all who listen, and keeps no step waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Listener:
    """Hears what a run tells of itself, and does nothing about it: to be overridden in part."""

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
    """Passes everything on to listeners, in its order, on a thread of its own.

    So neither a terminal that somebody has halted nor a slow file server keeps a step waiting. `flush` and `close` wait
    until all has been passed on.

    Args:
        listeners: of rank 0; other workers have none.
    """

    def __init__(self, listeners: Sequence[Listener] = ()):
        self._listeners = listeners
        self._thread = ThreadPoolExecutor(1, "journal")
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
        self._tell("flush")
        self._wait()

    def close(self) -> None:
        self._tell("close")
        self._wait()
        self._thread.shutdown()

    def _tell(self, what: str, *values: Any) -> None:
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft().result()  # a listener that fails is a fault of the program, not to be hidden
        for listener in self._listeners:
            self._under_way.append(self._thread.submit(getattr(listener, what), *values))

    def _wait(self) -> None:
        while self._under_way:
            self._under_way.popleft().result()
