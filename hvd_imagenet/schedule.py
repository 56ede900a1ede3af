"""The plan of a run for people: a table, one CSV line per step, or a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from hvd_imagenet.pictures import require_picture, write_picture
from hvd_imagenet.policy import LargeBatchPolicy

CSV_COLUMNS = ("step", "samples_seen", "epoch", "global_batch", "lr", "momentum_correction")
PICTURE_POINTS = 2000


def write_csv(policy: LargeBatchPolicy, file: TextIO) -> None:
    """One line per step, numbers in full precision; step, samples_seen and epoch are those at the step's start."""
    file.write(",".join(CSV_COLUMNS) + "\n")
    for plan in policy.steps():
        values = (plan.step, plan.samples_seen, plan.epoch, plan.global_batch, plan.learning_rate)
        file.write(",".join(map(repr, (*values, plan.momentum_correction))) + "\n")


def print_table(policy: LargeBatchPolicy) -> None:
    """The stretches of the run between one change of plan and the next."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("epochs", "steps", "global batch", "micro-batches", "learning rate"):
        table.add_column(column, justify="right")
    for first, last in policy.stretches():
        rate = f"{first.learning_rate:.6g}"
        if last.learning_rate != first.learning_rate:
            rate += f" to {last.learning_rate:.6g}"
        end = (last.samples_seen + last.global_batch) / policy.dataset_size
        steps = last.step + 1 - first.step
        table.add_row(
            f"{first.epoch:.2f} to {end:.2f}", f"{steps:,}", f"{first.global_batch:,}", f"{first.micro_batches:,}", rate
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{policy.total_steps:,} steps over {policy.last_sample:,} samples of a training set of "
        f"{policy.dataset_size:,}, in micro-batches of {policy.micro_batch}",
        soft_wrap=True,
    )


def plot(policy: LargeBatchPolicy, path: Path) -> None:
    """Draw learning rate and global batch over the epochs.

    Raises:
        SettingsError: the file's ending is not that of a picture, or it cannot be written.
    """
    require_picture(path)
    from matplotlib.figure import Figure  # a second: only where a picture is asked for

    every = max(1, policy.total_steps // PICTURE_POINTS)
    edges = {plan.step for ends in policy.stretches() for plan in ends}
    plans = [plan for plan in policy.steps() if plan.step % every == 0 or plan.step in edges]
    epochs = [plan.epoch for plan in plans]
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot(epochs, [plan.learning_rate for plan in plans], color="#0072b2")
    upper.set(ylabel="learning rate", yscale="log")
    lower.step(epochs, [plan.global_batch for plan in plans], where="post", color="#d55e00")
    lower.set(xlabel="epoch", ylabel="global batch", ylim=(0, None))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    write_picture(figure, path)
