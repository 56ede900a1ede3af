"""A plan as a picture: speed-up and efficiency against the number of workers."""

from __future__ import annotations

from pathlib import Path

from hvd_imagenet.pictures import require_picture, write_picture
from hvd_imagenet.planner.run import Run


def plot(run: Run, path: Path) -> None:
    """Draw the runs of the table, and the one that is planned.

    Raises:
        SettingsError: the file's ending is not that of a picture, or it cannot be written.
    """
    require_picture(path)
    from matplotlib.figure import Figure  # a second: only where a picture is asked for

    runs = list(run.others())
    workers = [other.cluster.workers for other in runs]
    speed_up = [other.efficiency * other.cluster.workers for other in runs]
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    upper.plot(workers, workers, color="#999999", linestyle="--", label="as many times one worker")
    upper.plot(workers, speed_up, color="#0072b2", marker="o", label="predicted")
    upper.set(ylabel="speed-up over one worker", xscale="log", yscale="log")
    lower.plot(workers, [100 * other.efficiency for other in runs], color="#0072b2", marker="o")
    lower.set(xlabel="workers", ylabel="efficiency, %", ylim=(0, 105))
    shown = [f"{count:,}" for count in workers]
    lower.set_xticks(workers, shown)
    upper.set_yticks(workers, shown)
    planned = run.cluster.workers
    upper.plot([planned], [run.efficiency * planned], "o", color="#d55e00", markersize=10, label=f"{planned:,} workers")
    upper.set_title(f"{run.config.model.name}, {run.cluster.per_node} to a node")
    upper.legend(frameon=False)
    for axes in (upper, lower):
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    write_picture(figure, path)
