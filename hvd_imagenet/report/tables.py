"""The tables of the report: their columns, and every cell as the text that stands in it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hvd_imagenet.report.accounts import plain
from hvd_imagenet.report.arms import MISSING, Arm, differing
from hvd_imagenet.report.restarts import Restart
from hvd_imagenet.report.run import Errors, Run
from hvd_imagenet.report.stragglers import Straggler

NONE = "–"
CONFUSIONS = 20  # of a run at most
STRAGGLERS = 10  # runs at most
STATES = {"done": "done", "running": "running", "silent": "no sign of life", "stopped": "stopped"}
STATES |= {"failed": "failed", "unknown": "unknown"}


class Cell(NamedTuple):
    """A cell.

    Attributes:
        text: what stands in it.
        arm: number of the arm whose sign stands before it.
        kind: done, or what else has become of a run; so_far, for a figure that is not final.
        more: said where there is room for it.
    """

    text: str
    arm: int | None = None
    kind: str = ""
    more: str = ""


class Table(NamedTuple):
    """A table.

    Attributes:
        caption: what it shows.
        columns: their headings; the first one's cells are the headings of the rows.
        rows: of cells, as many as there are columns.
        words: headings of the columns that hold no numbers.
    """

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    words: frozenset[str] = frozenset()


def results(arms: list[Arm]) -> Table:
    """What came out, by arm: the median of the last five evaluations is the paper's figure (section 5.1)."""
    columns = ["arm", "runs", "error, %", "last, %", "best, %", "epochs", "steps", "workers", "images/s"]
    columns += ["wall time", "restarts", "state"]
    caption = "Validation top-1 error: the median of the last five evaluations, of the last one, and of the best one"
    if any(len(arm.runs) > 1 for arm in arms):
        caption += "; mean ± standard deviation over the runs that are done"
    rows = [_result(number, arm) for number, arm in enumerate(arms)]
    return Table(f"{caption}.", columns, rows, frozenset({"arm", "state"}))


def runs(arms: list[Arm]) -> Table:
    """Every run on its own."""
    columns = ["run", "arm", "seed", "error, %", "last, %", "best, %", "epochs", "steps", "workers", "images/s"]
    columns += ["wall time", "restarts", "state", "reason"]
    rows = []
    for number, arm in enumerate(arms):
        for run in arm.runs:
            seed = plain((run.accounts.settings or {}).get("seed", NONE))
            state = run.accounts.state
            figures = [_errors([run], of) for of in (_median5, _last, _best)]
            ending = [Cell(STATES[state.word], kind=state.word), Cell(state.reason or NONE)]
            rows.append([Cell(run.label), Cell(arm.name, number), Cell(seed), *figures, *_course([run]), *ending])
    return Table("Each run; errors as above.", columns, rows, frozenset({"run", "arm", "state", "reason"}))


def differences(arms: list[Arm]) -> Table | None:
    """The settings that are not the same in all arms; None: there are none."""
    keys = differing([arm.settings for arm in arms])
    rows = [
        [Cell(arm.name, number), *(Cell(plain(arm.settings.get(key, MISSING))) for key in keys)]
        for number, arm in enumerate(arms)
    ]
    return (
        Table("The settings in which arms differ.", ["arm", *keys], rows, frozenset(["arm", *keys])) if keys else None
    )


def common(arms: list[Arm]) -> Table | None:
    """The settings that are the same in all arms; None: there are none."""
    keys = set(differing([arm.settings for arm in arms]))
    rows = [[Cell(key), Cell(plain(value))] for key, value in arms[0].settings.items() if key not in keys]
    columns = ["setting", "value"]
    return (
        Table("The settings that all runs have, but for seed and places.", columns, rows, frozenset(columns))
        if rows
        else None
    )


def restarted(restarts: list[Restart]) -> Table | None:
    """Every restart; None: there were none."""
    columns = ["run", "epoch", "step", "workers before", "workers", "reason", "time"]
    rows = [
        [
            Cell(one.run, one.arm),
            Cell(NONE if one.epoch is None else f"{one.epoch:.2f}"),
            *(Cell(NONE if count is None else f"{count:,}") for count in (one.step, one.before, one.workers)),
            Cell(one.reason or NONE),
            Cell(one.time or NONE),
        ]
        for one in restarts
    ]
    return (
        Table(
            "When runs went on from a checkpoint or with other workers.",
            columns,
            rows,
            frozenset({"run", "reason", "time"}),
        )
        if rows
        else None
    )


def slowest(stragglers: list[Straggler]) -> Table | None:
    """Which worker the others wait for, in the runs that lose the most by it; None: nobody has logged it."""
    columns = ["run", "most often", "how often, %", "its host, %", "behind the median", "lost in a step"]
    rows = [
        [
            Cell(one.run, one.arm),
            Cell(f"worker {one.rank:,}" + (f" on {one.host}" if one.host is not None else "")),
            *(Cell(NONE if share is None else f"{100 * share:.0f}") for share in (one.share, one.on_host)),
            Cell(_milliseconds(one.behind), more="" if one.ratio is None else f"{100 * one.ratio:+.1f} %"),
            Cell(_milliseconds(one.lost)),
        ]
        for one in stragglers[:STRAGGLERS]
    ]
    caption = "The worker that the others waited for most often, in the means between two logged steps, and how much "
    caption += "longer than the median one it took for its own part of a step; lost is what the slowest one, whichever "
    caption += "it was, took longer on average"
    if len(stragglers) > STRAGGLERS:
        caption += f"; of {len(stragglers)} runs the {STRAGGLERS} that lose the most"
    return Table(f"{caption}.", columns, rows, frozenset(columns[:2])) if rows else None


def confusions(arms: list[Arm]) -> list[Table]:
    """Of each run that ``hvd-imagenet evaluate`` has looked at, what its worst classes are taken for."""
    found = []
    for arm in arms:
        for run in arm.runs:
            evaluation = run.accounts.evaluation
            if evaluation and evaluation.confusions:
                rows = [
                    [Cell(one.name), Cell(one.taken_for), Cell(f"{one.count:,.0f}"), Cell(f"{100 * one.share:.1f}")]
                    for one in evaluation.confusions[:CONFUSIONS]
                ]
                after = "" if evaluation.step is None else f" after step {evaluation.step:,.0f}"
                caption = f"{run.label}{after}, on {evaluation.split}"
                columns = ["class", "taken for", "images", "of the class, %"]
                found.append(Table(caption, columns, rows, frozenset(columns[:2])))
    return found


def _result(number: int, arm: Arm) -> list[Cell]:
    figures = [_errors(arm.runs, of) for of in (_median5, _last, _best)]
    return [Cell(arm.name, number), Cell(f"{len(arm.runs)}"), *figures, *_course(arm.runs), _states(arm.runs)]


def _course(of: list[Run]) -> list[Cell]:
    """Epochs, steps, workers, images per second, wall time and restarts of runs."""
    return [
        Cell(_range([run.epoch for run in of], lambda value: f"{value:.4g}")),
        Cell(_range([run.steps for run in of], lambda value: f"{value:,}")),
        Cell(_range([run.workers for run in of], lambda value: f"{value:,.0f}")),
        Cell(
            _mean(
                [run.images_per_second for run in of], lambda value: f"{value:,.0f}" if value > 99 else f"{value:.3g}"
            )
        ),
        Cell(_mean([run.wall_seconds for run in of], _clock)),
        Cell(f"{sum(len(run.events.restarts) for run in of)}"),
    ]


def _errors(of: list[Run], which: Callable[[Errors], float]) -> Cell:
    """Mean and standard deviation over the runs that are done; where none is, over all, so far."""
    known = [run for run in of if run.errors]
    done = [which(run.errors) for run in known if run.done]
    values = done or [which(run.errors) for run in known]
    if not values:
        return Cell(NONE)
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    kind, more = ("", "") if done else ("so_far", "so far")
    return Cell(f"{statistics.fmean(values):.2f}{deviation}", kind=kind, more=more)


def _median5(errors: Errors) -> float:
    return errors.median5


def _last(errors: Errors) -> float:
    return errors.last


def _best(errors: Errors) -> float:
    return errors.best


def _states(of: list[Run]) -> Cell:
    words = Counter(run.accounts.state.word for run in of)
    if len(words) == 1:
        (word,) = words
        return Cell(STATES[word], kind=word)
    worst = next(word for word in ("failed", "silent", "unknown", "stopped", "running") if word in words)
    return Cell(", ".join(f"{count} {STATES[word]}" for word, count in words.items()), kind=worst)


def _range(values: Sequence[float | None], told: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    low, high = told(min(known)), told(max(known))
    return low if low == high else f"{low} – {high}"


def _milliseconds(seconds: float | None) -> str:
    return NONE if seconds is None else f"{1000 * seconds:,.1f} ms"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:,}:{minutes % 60:02}:{rest:02}"


def _mean(values: Sequence[float | None], told: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return told(statistics.fmean(known)) if known else NONE
