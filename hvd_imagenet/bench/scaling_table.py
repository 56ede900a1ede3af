"""What bench scaling has found: efficiencies, the parts of a step, the cost of coordination, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hvd_imagenet.bench import report, training
from hvd_imagenet.bench.blocks import speed
from hvd_imagenet.bench.figures import Figure
from hvd_imagenet.bench.work import Answer

ONE, UNCOUPLED = "one", "uncoupled"
PARTS = ("data", "forward", "backward", "compute", "communication", "update")
Rounds = Mapping[tuple[str, int], list[list[Answer]]]  # by contestant and number of workers, the answers of each round


def measured(rounds: Rounds) -> list[dict[str, Any]]:
    """Of each contestant: images per second, efficiency, and the seconds of a step.

    Efficiency, round by round: to so many times one worker alone with the cores of one of them, and to as many
    uncoupled ones.
    """
    speeds = {key: [speed(answers) for answers in its] for key, its in rounds.items()}
    found = []
    for (name, workers), its in speeds.items():
        row: dict[str, Any] = {"contestant": name, "workers": workers, "images_per_second": asdict(Figure.of(its))}
        for limit, times in ((ONE, workers), (UNCOUPLED, 1)):
            if (limit, workers) in speeds and workers > 1 and name not in (ONE, limit):
                to = [own / (times * most) for own, most in zip(its, speeds[limit, workers], strict=True)]
                row[f"to_{limit}"] = asdict(Figure.of(to))
        row["seconds"] = _parts(rounds[name, workers])
        found.append(row)
    return found


def emulated(rounds: Rounds, milliseconds: float) -> list[dict[str, Any]]:
    """Of each job: seconds of a step, how many of them are no sleep, and how these grow from the fewest workers on."""
    found, least = [], {}
    for (name, workers), its in rounds.items():
        steps = [answer.seconds / answer.steps for (answer,) in its]
        cost = [seconds - milliseconds / 1000 for seconds in steps]
        least.setdefault(name, cost)
        growth = [one / first for one, first in zip(cost, least[name], strict=True)]
        row = {"step_seconds": steps, "coordination_seconds": cost, "growth": growth}
        found.append({"contestant": name, "workers": workers, **{k: asdict(Figure.of(v)) for k, v in row.items()}})
    return found


def show(found: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    told = found["settings"]
    of_step = "strong scaling" if told["strong"] else "weak scaling"
    if told["emulate_step_ms"] is not None:
        of_step = f"{told['emulate_step_ms']:g} ms of sleep in place of computing"
    table = Table(
        title=f"{training.title(told)}; {of_step}, {report.turns(told)}",
        caption=f"{report.FOOTNOTE}; {report.counted(found['machine']['cores'], 'core')} of "
        f"{found['machine']['processor']}",
    )
    (_emulated_rows if told["emulate_step_ms"] is not None else _measured_rows)(table, found["results"])
    console.print(table)


def _measured_rows(table: Table, rows: list[dict[str, Any]]) -> None:
    parts = [part for part in PARTS if any(part in row["seconds"] for row in rows)]
    table.add_column("workers", justify="right")
    table.add_column("")
    for column in ("images/s", "to alone", "to uncoupled", f"ms of a step: {', '.join(parts)}"):
        table.add_column(column, justify="right")
    for before, row in zip([None, *rows], rows, strict=False):
        if before and before["workers"] != row["workers"]:
            table.add_section()
        to = [report.cell(row[key], ".1%") if key in row else "" for key in (f"to_{ONE}", f"to_{UNCOUPLED}")]
        medians = [f"{1000 * row['seconds'][part]['median']:,.1f}" for part in parts if part in row["seconds"]]
        table.add_row(
            str(row["workers"]), row["title"], report.cell(row["images_per_second"], ",.1f"), *to, ", ".join(medians)
        )


def _emulated_rows(table: Table, rows: list[dict[str, Any]]) -> None:
    table.add_column("workers", justify="right")
    table.add_column("")
    for column in ("ms of a step", "of them coordination", "growth"):
        table.add_column(column, justify="right")
    for row in rows:
        seconds = (row["step_seconds"], row["coordination_seconds"])
        in_ms = [{key: 1000 * one[key] for key in ("median", "low", "high")} for one in seconds]
        cells = [report.cell(one, ",.1f") for one in in_ms]
        table.add_row(str(row["workers"]), row["title"], *cells, report.cell(row["growth"], ",.2f"))


def _parts(rounds: list[list[Answer]]) -> dict[str, Any]:
    """Seconds of a step by what they went to, in the mean over those who answered."""
    told = [[answer.told for answer in answers] for answers in rounds]
    parts = [part for part in PARTS if all(part in one for of_round in told for one in of_round)]
    means = {part: [sum(one[part] for one in of_round) / len(of_round) for of_round in told] for part in parts}
    return {part: asdict(Figure.of(values)) for part, values in means.items()}
