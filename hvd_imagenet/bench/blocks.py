"""Measuring contestants against each other, in interleaved blocks of time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hvd_imagenet.bench.contestant import Contestant, ContestantError, Crew
from hvd_imagenet.bench.work import Answer


@contextmanager
def started(
    crews: Mapping[str, Crew], folder: Path, asked: Any, told: Callable[[str], None]
) -> Iterator[dict[str, Contestant]]:
    """Contestants by name, ready and stopped; all are ended at the end.

    Args:
        folder: for their files.
        asked: what they warm up by.
        told: called with a name before each starts.

    Raises:
        ContestantError: one could not start; the message begins with its name.
    """
    ready: dict[str, Contestant] = {}
    largest = 0
    try:
        for number, (name, crew) in enumerate(crews.items()):
            told(name)
            with naming(name):
                require_room(largest)
                ready[name] = Contestant(folder / f"contestant-{number}", crew)
                ready[name].start(asked)
            largest = max(largest, ready[name].memory())
        yield ready
    finally:
        for contestant in ready.values():
            contestant.release()
        for contestant in ready.values():
            contestant.end()


def require_room(needed: int) -> None:
    """Raise ContestantError unless so many bytes of memory, what the largest one so far has taken, are free.

    Otherwise the system would choose whom to end, which need not be one of the bench's.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        raise ContestantError(
            f"does not fit into memory: another one has taken {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are "
            "free; let fewer take part at a time, or give a smaller batch"
        )


def interleaved(
    contestants: Mapping[str, Contestant],
    rounds: int,
    seconds: float,
    told: Callable[[int, str], None],
    asked: Sequence[Any],
    dice: random.Random,
) -> dict[str, list[list[list[Answer]]]]:
    """What each contestant answered, by what was asked and by round; of each round, the answers of its speakers.

    In every round, for each thing that is asked, each contestant has one block, in an order by chance.

    Args:
        told: called with the round and the name before each block.
        dice: by which the order is chosen.

    Raises:
        ContestantError: see `started`.
    """
    found: dict[str, list[list[list[Answer]]]] = {name: [[] for _ in asked] for name in contestants}
    for number in range(rounds):
        for which in dice.sample(range(len(asked)), len(asked)):
            for name in dice.sample(list(contestants), len(contestants)):
                told(number, name)
                with naming(name):
                    found[name][which].append(contestants[name].block(seconds, asked[which]))
    return found


def speed(answers: list[Answer]) -> float:
    """What is counted, per second, of all who answered in one block."""
    return sum(answer.amount / answer.seconds for answer in answers)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """A contestant's error, beginning with its name."""
    try:
        yield
    except ContestantError as error:
        raise ContestantError(f"{name}: {error}") from None
