"""The options that all benches share, what can take part in them, and the checks of both."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hvd_imagenet.errors import SettingsError


@dataclass(frozen=True)
class Entry:
    """A contestant in the table.

    Attributes:
        title: what it is called there.
        module: what it runs, in ``hvd_imagenet.bench``.
        packages: that it needs, by the name that both Python and pip know them by; this package's own are not counted.
    """

    title: str
    module: str
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """What pip has to install first."""
        return [package for package in self.packages if find_spec(package) is None]


def add_to(parser: ArgumentParser, known: str, rounds: int, seconds: float) -> None:
    """Add what all benches share.

    Args:
        known: the alternatives, with a comma between.
        rounds, seconds: the defaults.
    """
    parser.add_argument("--against", metavar="A,B", help=f"of {known} (default: those that can be had here)")
    parser.add_argument("--rounds", metavar="N", type=int, default=rounds, help=f"turns of each (default: {rounds})")
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=seconds, help=f"of a turn, about (default: {seconds:g})"
    )
    parser.add_argument("--json", metavar="FILE", type=str, help="all figures, with machine and versions")


def add_starts_to(parser: ArgumentParser) -> None:
    """Add how often contestants are started, for what is not equally fast from one start to the next."""
    parser.add_argument(
        "--starts",
        metavar="N",
        type=int,
        default=1,
        help="how often all are started anew, which moves them in memory and so makes some percent; the rounds are "
        "shared out over the starts (default: 1)",
    )


def require_starts(options: Any) -> None:
    """Raise SettingsError unless there is a round for each start."""
    require_above_0("starts", options.starts)
    if options.starts > options.rounds:
        raise SettingsError(f"--starts: {options.starts}; and --rounds {options.rounds}: give a round for each start")


def require_sensible(options: Any) -> None:
    """Check what all benches share, but for the alternatives.

    Raises:
        SettingsError: names option, value and remedy.
    """
    require_above_0("rounds", options.rounds)
    require_above_0("seconds", options.seconds)
    if options.json == "":
        raise SettingsError("--json: is empty; give the name of a file")
    if options.json and Path(options.json).is_dir():
        raise SettingsError(f"--json: {options.json}; is a folder; give the name of a file")
    if options.json and not Path(options.json).resolve().parent.is_dir():
        raise SettingsError(f"--json: {options.json}; its folder does not exist")


def require_above_0(option: str, value: float) -> None:
    """Raise SettingsError unless an option's value is above 0."""
    if not value > 0:
        raise SettingsError(f"--{option}: {value}; give a number above 0")


def listed(option: str, given: str | None, known: Mapping[str, Any]) -> list[str] | None:
    """The names in an option's value, each once; None: it was not given.

    Raises:
        SettingsError: one is unknown.
    """
    if given is None:
        return None
    names = list(dict.fromkeys(name for name in given.split(",") if name))
    for name in names:
        if name not in known:
            raise SettingsError(f"--{option}: {name}; known: {', '.join(known)}")
    return names


def alternatives(against: str | None, known: Mapping[str, Entry]) -> list[str]:
    """The names of the alternatives that take part: those asked for, or those that can.

    Raises:
        SettingsError: one is unknown, or is asked for and not installed.
    """
    asked = listed("against", against, known)
    for name in asked or []:
        if missing := known[name].missing():
            raise SettingsError(f"--against: {name} is not installed; run: pip install {' '.join(missing)}")
    return [name for name in known if not known[name].missing()] if asked is None else asked
