"""Requests to stop: a signal to this worker, a file named STOP in the run's folder, or the end of its launcher."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
ONE_REQUEST_SECONDS = 1.0  # launchers pass on a signal that a worker has also got itself
POLL_SECONDS = 1.0


class StopRequests:
    """Takes signals as requests to stop after the step at hand, from `__enter__` to `__exit__`.

    Signals are read by a thread, so that the second one ends the process at once even where the main thread waits for
    other workers or the device.

    Attributes:
        asked: what asked for it, such as "got SIGTERM"; empty: nothing has.
        file: watched for, too, from when it is set.
        at_once: called before a second signal ends the process, with the number of the signal.
        lost_launcher: called when this worker's launcher is gone; unless it is set, that is a request to stop, too.
    """

    def __init__(self):
        self.asked = ""
        self.file: Path | None = None
        self.at_once: Callable[[int], None] = lambda number: None
        self.lost_launcher: Callable[[], None] = lambda: self.ask("lost its launcher")
        self._since = 0.0

    def __enter__(self) -> StopRequests:
        # The handler does nothing: what matters is the byte that each signal writes into the pipe.
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        self._previous = {number: signal.signal(number, lambda *_: None) for number in heard}
        self._pipe, self._signalled = os.pipe()
        os.set_blocking(self._signalled, False)
        self._previous_wakeup = signal.set_wakeup_fd(self._signalled, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._take_signals, name="stop requests", daemon=True)
        self._thread.start()
        self._left = threading.Event()
        # A thread of its own: where the file's server hangs, signals are still taken.
        threading.Thread(target=self._look_for_file, name="stop file", daemon=True).start()
        if "HOROVOD_RANK" in os.environ:
            threading.Thread(target=self._look_for_launcher, name="stop launcher", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._left.set()
        os.close(self._signalled)
        self._thread.join()
        os.close(self._pipe)

    def _take_signals(self) -> None:
        while numbers := os.read(self._pipe, 64):
            for number in numbers:
                if number in SIGNALS:
                    self._take(number)

    def _look_for_file(self) -> None:
        while not self._left.wait(POLL_SECONDS):
            if self.file is not None and not self.asked and os.path.exists(self.file):
                self.ask(f"found {self.file}")

    def _look_for_launcher(self) -> None:
        while not self._left.wait(POLL_SECONDS) and not self.asked:
            if _launcher_is_gone():
                self.lost_launcher()

    def _take(self, number: int) -> None:
        if not self.asked:
            self.ask(f"got {signal.Signals(number).name}")
        elif time.monotonic() - self._since > ONE_REQUEST_SECONDS:
            self.at_once(number)
            os._exit(128 + number)

    def ask(self, what: str) -> None:
        """Request a stop, as a signal would.

        Args:
            what: did so, such as "got SIGTERM".
        """
        self._since = time.monotonic()
        self.asked = what
        if sys.stderr.isatty():
            print(f"{what}: ending, with all saved that is to be saved; a second signal ends at once", file=sys.stderr)


def _launcher_is_gone() -> bool:
    """Whether nobody takes this worker's output any more: on another host, horovodrun's end shows in nothing else."""
    output = select.poll()
    output.register(1, 0)  # for what is always told
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in output.poll(0))
