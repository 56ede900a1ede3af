"""Measuring contestants against each other: each in a process of its own, in interleaved blocks of time."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from hvd_imagenet.bench.loaders import Task


class ContestantError(Exception):
    """A contestant ended on its own; the message is the last line that it said."""


class Contestant:
    """A process that makes batches in blocks, and is stopped in between, with all that it had begun.

    So nobody uses the cores in another's time, and a block begins where the last one ended: with as much read ahead as
    there is in the middle of a long run.

    Args:
        module: of ``hvd_imagenet.bench.loaders``.
        task: what it is to do.
        cores: the only ones that it may use.
    """

    def __init__(self, module: str, task: Task, cores: list[int]):
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        # A group of its own, to be stopped as one; if this process dies, the kernel ends the stopped ones.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hvd_imagenet.bench.contestant", module, json.dumps(vars(task)), json.dumps(cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            process_group=0,
            text=True,
        )

    def start(self) -> None:
        """Wait until it has made its first batches.

        Raises:
            ContestantError: it has ended instead.
        """
        self._hear()
        self._signal(signal.SIGSTOP)

    def block(self, seconds: float) -> float:
        """Images per second over one block."""
        self._signal(signal.SIGCONT)
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        images, taken = self._hear()
        self._signal(signal.SIGSTOP)
        return images / taken

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.communicate()
        self._said.close()

    def _hear(self) -> list[float]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._said.seek(0)
        *_, last = self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ContestantError(last)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # it has ended, which shows when it is heard


@contextmanager
def started(modules: dict[str, str], task: Task, told: Callable[[str], None]) -> Iterator[dict[str, Contestant]]:
    """Contestants by name, ready and stopped; all are ended at the end.

    Args:
        modules: by the contestants' names.
        told: called with a name before each starts.

    Raises:
        ContestantError: one could not start; the message begins with its name.
    """
    cores = sorted(os.sched_getaffinity(0))[: task.threads]
    with ExitStack() as stack:
        ready = {}
        for name, module in modules.items():
            told(name)
            ready[name] = Contestant(module, task, cores)
            stack.callback(ready[name].end)
            with naming(name):
                ready[name].start()
        yield ready


def interleaved(
    contestants: dict[str, Contestant], rounds: int, seconds: float, told: Callable[[int, str], None]
) -> dict[str, list[float]]:
    """Images per second of each contestant in each round; in every round each has one block, in an order by chance.

    Args:
        told: called with the round and the name before each block.

    Raises:
        ContestantError: see `started`.
    """
    dice, speeds = random.Random(0), {name: [] for name in contestants}
    for number in range(rounds):
        for name in dice.sample(list(contestants), len(contestants)):
            told(number, name)
            with naming(name):
                speeds[name].append(contestants[name].block(seconds))
    return speeds


@contextmanager
def naming(name: str) -> Iterator[None]:
    """A contestant's error, beginning with its name."""
    try:
        yield
    except ContestantError as error:
        raise ContestantError(f"{name}: {error}") from None
