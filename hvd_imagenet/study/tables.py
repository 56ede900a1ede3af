"""What a study shows as tables: the studies that there are, the runs of one, and its outcome."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from hvd_imagenet.study import definition, outcome
from hvd_imagenet.study.definition import Run
from hvd_imagenet.study.folder import StudyFolder

LOG_WIDTH = 120  # columns, where there is no terminal


def list_studies() -> None:
    """Show the studies that come with the package."""
    show(("study", "what"), list(definition.titles().items()))


def list_runs(folder: StudyFolder) -> None:
    """Show the runs of a study by the numbers of their tasks, and what is done of them; its data need not be there."""
    rows = []
    for number, run in enumerate(folder.study.runs()):
        plan = outcome.plan(folder.study.policy(run.arm)) if run.config.data.train_samples else ("", "", "")
        rows.append((str(number), run.arm, str(run.seed), *plan, _state(folder, run)))
    show(("task", "arm", "seed", *outcome.PLAN, "state"), rows, numbers=(0, 2, 3, 4, 5))


def _state(folder: StudyFolder, run: Run) -> str:
    if folder.is_done(run):
        return f"error {outcome.error_of(folder.run(run)):.2f} %"
    return "begun" if (folder.run(run) / "config.yaml").exists() else ""


def show(columns: Iterable[str], rows: list[tuple[str, ...]], numbers: Iterable[int] = ()) -> None:
    """Print a table.

    Args:
        numbers: the columns that are aligned on the right, from 0.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(table)
