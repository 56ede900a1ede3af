"""Runs grouped into arms: those that differ in nothing but their seed, and where their data lies."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvd_imagenet.config.flat import PLACES
from hvd_imagenet.errors import DataError
from hvd_imagenet.report import run as runs_of
from hvd_imagenet.report.accounts import number, plain
from hvd_imagenet.report.run import Run

NOT_COMPARED = ("seed", *PLACES)
VAGUE = ("name", "reference", "window", "limit")  # last parts of keys that say nothing alone
IN_A_NAME = 3  # settings at most; more say less than the folder's name
MISSING = "not given"


@dataclass(frozen=True)
class Arm:
    """Runs with the same settings.

    Attributes:
        name: unlike all others'.
        runs: at least one.
    """

    name: str
    runs: list[Run]

    @property
    def settings(self) -> dict[str, Any]:
        """Those that its runs have in common, by their dotted keys; of runs that differ, the first one's."""
        known = (compared(run) for run in self.runs)
        return next(filter(None, known), {})


@dataclass(frozen=True)
class Row:
    """An arm in the table: validation top-1 error in percent, the median of the last five evaluations (section 5.1).

    Attributes:
        name: of the arm.
        runs: how many it has.
        mean, std: over the runs that are done; std is that of a sample (n - 1); None: too few are done.
        values: of the runs that are done.
    """

    name: str
    runs: int
    mean: float | None
    std: float | None
    values: list[float]

    @classmethod
    def of(cls, arm: Arm) -> Row:
        values = [run.errors.median5 for run in arm.runs if run.done and run.errors]
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(arm.name, len(arm.runs), statistics.fmean(values) if values else None, std, values)


def table(runs: list[Path], names: list[str] | None = None) -> list[Row]:
    """The errors of arms, in the order of their first runs.

    Args:
        runs: folders of runs.
        names: the arm of each run; None: as their settings say.

    Raises:
        RunError: the runs cannot be read, or not be compared.
    """
    return [Row.of(arm) for arm in group(runs_of.read(runs), names)]


def group(runs: list[Run], names: list[str] | list[str | None] | None = None) -> list[Arm]:
    """Runs as arms, in the order of their first runs.

    Args:
        names: the arm of each run; where one has none, its settings decide.

    Raises:
        DataError: they are of different data sets.
    """
    _require_same_data(runs)
    named: dict[str, list[Run]] = {}
    unnamed: list[list[Run]] = []
    for run, name in zip(runs, names or [None] * len(runs), strict=True):
        if name is not None:
            named.setdefault(plain(name), []).append(run)
            continue
        alike = (arm for arm in unnamed if compared(run) is not None and compared(arm[0]) == compared(run))
        if arm := next(alike, None):
            arm.append(run)
        else:
            unnamed.append([run])
    arms = [Arm(name, its) for name, its in named.items()]
    arms += [Arm(name, its) for name, its in zip(_names(unnamed, set(named)), unnamed, strict=True)]
    return sorted(arms, key=lambda arm: runs.index(arm.runs[0]))


def compared(run: Run) -> dict[str, Any] | None:
    """The settings that decide which arm a run belongs to; None: unknown."""
    settings = run.accounts.settings
    return settings and {key: value for key, value in settings.items() if key not in NOT_COMPARED}


def differing(settings: list[dict[str, Any]]) -> list[str]:
    """The keys of settings that are not the same everywhere, but for where none are known."""
    known = [one for one in settings if one]
    keys = dict.fromkeys(key for one in known for key in one)
    return [key for key in keys if any(one.get(key, MISSING) != known[0].get(key, MISSING) for one in known)]


def short(keys: list[str]) -> dict[str, str]:
    """For each dotted key, its last parts: as many as tell it from all others, and what it is of."""
    found = {}
    for key in keys:
        parts = key.split(".")
        shortest = 2 if parts[-1] in VAGUE and len(parts) > 1 else 1
        endings = [".".join(parts[-length:]) for length in range(shortest, len(parts) + 1)]
        found[key] = next(end for end in endings if end == key or sum(f".{k}".endswith(f".{end}") for k in keys) == 1)
    return found


def warnings(arms: list[Arm]) -> list[str]:
    """What to know of the arms before comparing them."""
    found = []
    for arm in arms:
        if keys := differing([compared(run) or {} for run in arm.runs]):
            found.append(f"{arm.name}: its runs differ in {', '.join(keys)}")
    sums = {run.accounts.contents: run.label for arm in arms for run in arm.runs if run.accounts.contents}
    if len(sums) > 1:
        told = ", ".join(f"{label} ({contents})" for contents, label in sums.items())
        found.append(
            f"the training sets have different checksums, so they are packed differently, or not the same: {told}"
        )
    return found


def _names(arms: list[list[Run]], taken: set[str]) -> list[str]:
    """A name for each arm, by what sets it apart: its settings, or its folder where those are many or none."""
    known = [compared(runs[0]) for runs in arms]
    keys = differing([settings or {} for settings in known])
    shorter = short(list(dict.fromkeys(key for settings in known if settings for key in settings)))
    names = []
    for runs, settings in zip(arms, known, strict=True):
        if settings is not None and 0 < len(keys) <= IN_A_NAME:
            words = {shorter[key].removesuffix(".kind"): plain(settings.get(key, MISSING)) for key in keys}
            names.append(", ".join(f"{word} {value}" for word, value in words.items()))
        elif len(runs) == 1:
            names.append(runs[0].label)
        elif len(arms) == 1:
            names.append(plain(runs[0].accounts.settings.get("model.name", "all")))
        else:
            names.append(f"{runs[0].label} and {len(runs) - 1} more")
    often = Counter([*names, *taken])
    return [name if often[name] == 1 else f"{name} ({runs[0].label})" for name, runs in zip(names, arms, strict=True)]


def _require_same_data(runs: list[Run]) -> None:
    """Raise DataError where what is known of two runs' data sets cannot be of one."""
    told: dict[str, tuple[Run, float]] = {}
    for run in runs:
        for fact, value in _facts(run).items():
            first, known = told.setdefault(fact, (run, value))
            if value != known:
                raise DataError(
                    f"report: {first.label} and {run.label} are of different data sets ({known:,.0f} {fact} and "
                    f"{value:,.0f}), whose errors cannot be compared; give runs of one data set"
                )


def _facts(run: Run) -> dict[str, float]:
    """What is known of a run's data set."""
    settings = run.accounts.settings or {}
    facts = {"training images": number(settings, "data.train_samples"), "classes": number(settings, "model.classes")}
    counts = run.events.evaluations["count"]
    facts["validation images"] = counts[-1] if len(counts) and np.isfinite(counts[-1]) else None
    return {fact: value for fact, value in facts.items() if value is not None}
