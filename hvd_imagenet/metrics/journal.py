"""The journal of a run: everything it tells goes to all who listen, and keeps no step waiting."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

PATIENCE = 5  # seconds


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

    def wait(self) -> None:
        """All that has been told is to be passed on before this returns."""

    def flush(self) -> None:
        """Bring what has been told to the disk."""

    def close(self) -> None:
        """Nothing more comes."""


class Journal(Listener):
    """Passes everything on to listeners, to each in its order, on a thread of its own.

    So neither a terminal that somebody has halted nor a slow file server keeps a step waiting. What a listener fails of
    is a fault of the program, and raised by what is told next; but `failed` and `close` are not for new errors.

    Args:
        listeners: of rank 0; other workers have none.
    """

    def __init__(self, listeners: Sequence[Listener] = ()):
        self._threads = [(listener, ThreadPoolExecutor(1, "journal")) for listener in listeners]
        self._fault: BaseException | None = None

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
        self._pass_on("failed", reason)

    def wait(self) -> None:
        """Until all that was told can be read by others, where listeners are waited for."""
        self._wait(self._pass_on("wait"))

    def flush(self) -> None:
        self._wait(self._pass_on("flush"))

    def close(self) -> None:
        """Waits for all; for those that are not waited for, a moment only: they end with the program."""
        told = self._pass_on("close")
        for (listener, thread), future in zip(self._threads, told, strict=True):
            wait([future], timeout=None if listener.waited_for else PATIENCE)
            thread.shutdown(wait=False)

    def _wait(self, told: list[Future]) -> None:
        wait([future for (listener, _), future in zip(self._threads, told, strict=True) if listener.waited_for])
        self._raise_fault()

    def _tell(self, what: str, values: Any) -> None:
        self._raise_fault()
        self._pass_on(what, values)

    def _pass_on(self, what: str, *values: Any) -> list[Future]:
        told = [thread.submit(getattr(listener, what), *values) for listener, thread in self._threads]
        for future in told:
            future.add_done_callback(self._remember)
        return told

    def _remember(self, future: Future) -> None:
        self._fault = self._fault or future.exception()

    def _raise_fault(self) -> None:
        if self._fault:
            raise self._fault
