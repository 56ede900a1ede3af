"""The outcome of a study: mean and standard deviation over the runs of each arm, as a table."""

from __future__ import annotations

import json
from pathlib import Path

from hvd_imagenet.policy import LargeBatchPolicy
from hvd_imagenet.report import Row

NOTE = (
    "Validation top-1 error: the median of a run's last five evaluations; of an arm, mean ± sample standard deviation "
    "over its runs."
)
PLAN = ("global batch", "learning rate", "steps")
COLUMNS = ("arm", *PLAN, "runs", "error %")


def error_of(run: Path) -> float:
    """The validation top-1 error of a run that has a result, in per cent: the median of its last five evaluations."""
    return 100 * (1 - json.loads((run / "result.json").read_text())["median5_top1"])


def lines(arms: dict[str, LargeBatchPolicy], rows: list[Row], seeds: int) -> list[tuple[str, ...]]:
    """What the table says of each arm, by its `COLUMNS`.

    Args:
        arms: the plan of each.
        rows: of those that have results.
        seeds: how many runs each arm is to have.
    """
    by_name = {row.name: row for row in rows}
    found = []
    for name, policy in arms.items():
        row = by_name.get(name)
        error = f"{row.mean:.2f}" if row else "–"
        if row and row.std is not None:
            error += f" ± {row.std:.2f}"
        found.append((name, *plan(policy), f"{row.runs if row else 0} of {seeds}", error))
    return found


def plan(policy: LargeBatchPolicy) -> tuple[str, str, str]:
    """Global batch, highest learning rate and number of steps."""
    ends = [plan for stretch in policy.stretches() for plan in stretch]
    batches = list(dict.fromkeys(plan.global_batch for plan in ends))
    rate = max(plan.learning_rate for plan in ends)
    batch = f"{batches[0]:,}" if len(batches) == 1 else f"{batches[0]:,} to {batches[-1]:,}"
    return batch, f"{rate:.4g}", f"{policy.total_steps:,}"


def markdown(title: str, rows: list[tuple[str, ...]]) -> str:
    """The table as Markdown, with what it means."""
    head = [f"# {title}", "", _row(COLUMNS), _row(["---"] + ["---:"] * (len(COLUMNS) - 1))]
    return "\n".join([*head, *map(_row, rows), "", NOTE, ""])


def _row(cells) -> str:
    return f"| {' | '.join(cells)} |"
