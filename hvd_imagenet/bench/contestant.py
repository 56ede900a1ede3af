"""A contestant, as the bench sees it: processes that are started, heard, stopped, continued and ended as one."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hvd_imagenet.bench.work import Answer


class ContestantError(Exception):
    """A contestant ended on its own; the message is its error, or the last line that it said."""


@dataclass(frozen=True)
class Task:
    """What a process is to do.

    Attributes:
        module: such as ``hvd_imagenet.bench.loaders.dali``; ``work`` of its folder makes a `Work` of it.
        arguments: for that, as JSON has them.
        cores: the only ones that it may use; none: all.
    """

    module: str
    arguments: dict[str, Any]
    cores: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Command:
    """How a process is started, or the processes of a job.

    Attributes:
        task: of each of them.
        launcher: what stands before the command.
        environment: variables beside those of this process.
    """

    task: Task
    launcher: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Crew:
    """What makes up a contestant.

    Attributes:
        speakers: how many processes answer, each for itself and those that it leads.
    """

    commands: list[Command]
    speakers: int = 1


class Contestant:
    """Processes that work in blocks, and are stopped in between, with all that they had begun.

    So nobody uses the cores in another's time, and a block begins where the last one ended: with as much read ahead as
    there is in the middle of a long run.

    Args:
        folder: for its files; made here.
    """

    def __init__(self, folder: Path, crew: Crew):
        folder.mkdir()
        self._speakers = crew.speakers
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(folder / "socket"))
        self._server.listen()
        self._said = (folder / "said").open("w+b")
        keeper = [sys.executable, "-m", "hvd_imagenet.bench.keeper", str(_commands(folder, crew.commands))]
        self._keeper = subprocess.Popen(
            keeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, process_group=0
        )
        self._connections: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._keeper.stdout, selectors.EVENT_READ)

    def start(self, asked: Any = None) -> None:
        """Wait until it is there, and warm from a first block.

        Raises:
            ContestantError: it has ended instead.
        """
        self._hear()
        self.block(0.0, asked)

    def block(self, seconds: float, asked: Any = None) -> list[Answer]:
        """One block of about so many seconds; an answer of each speaker.

        Args:
            asked: what is to be done, of those who can do several things.

        Raises:
            ContestantError: it has ended instead.
        """
        self.signal(signal.SIGCONT)
        request = json.dumps({"asked": asked, "seconds": seconds}).encode() + b"\n"
        for connection in self._connections:
            with suppress(BrokenPipeError):  # it has ended, which shows when it is heard
                connection.sendall(request)
        answers = [Answer(*message["answer"]) for message in self._hear()]
        self.signal(signal.SIGSTOP)
        return answers

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes, those too that are begun meanwhile."""
        sent: set[int] = set()
        with suppress(psutil.NoSuchProcess):  # it has ended, which shows when it is heard
            while new := {child.pid for child in self._children()} - sent:
                for pid in new:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                sent |= new

    def release(self) -> None:
        """Let all of its processes end."""
        self._keeper.stdin.close()

    def end(self) -> None:
        """End all of its processes, and wait until they are gone."""
        self.release()
        self._keeper.wait()
        for one in (*self._connections, self._server, self._selector, self._keeper.stdout, self._said):
            one.close()

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self._keeper.pid).children(recursive=True)

    def _hear(self) -> list[dict[str, Any]]:
        """One message of each speaker, in the order in which they are connected."""
        heard: dict[socket.socket, dict[str, Any]] = {}
        while len(heard) < self._speakers:
            ready = [key.fileobj for key, _ in self._selector.select()]
            if ready == [self._keeper.stdout]:  # it has ended, and there is nothing else to be heard
                raise ContestantError(self._last_line())
            for one in ready:
                if one is self._server:
                    self._selector.register(self._server.accept()[0], selectors.EVENT_READ)
                elif one is not self._keeper.stdout and (message := self._message(one)) is not None:
                    heard[one] = message
        self._connections = self._connections or list(heard)
        return [heard[connection] for connection in self._connections]

    def _message(self, connection: socket.socket) -> dict[str, Any] | None:
        """The next line of a connection; None: there will be none, since that process has ended."""
        data = b""
        while not data.endswith(b"\n"):
            part = connection.recv(65536)
            if not part:
                self._selector.unregister(connection)
                return None
            data += part
        message = json.loads(data)
        if "failed" in message:
            raise ContestantError(message["failed"])
        return message

    def _last_line(self) -> str:
        self._said.seek(0)
        *_, last = self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return last


def _commands(folder: Path, commands: list[Command]) -> Path:
    """Write down what the keeper is to start; the file."""
    written = []
    for number, command in enumerate(commands):
        task = folder / f"task-{number}.json"
        task.write_text(json.dumps(vars(command.task)))
        worker = [sys.executable, "-m", "hvd_imagenet.bench.worker", str(task)]
        written.append({"arguments": [*command.launcher, *worker], "environment": dict(command.environment)})
    file = folder / "commands.json"
    file.write_text(json.dumps(written))
    return file
