"""A still picture of the report's first figure, for READMEs: errors and learning rate against epochs."""

from __future__ import annotations

import io
import warnings
from typing import Any

from hvd_imagenet.report import curves
from hvd_imagenet.report.arms import Arm
from hvd_imagenet.report.colours import ARMS_ON_LIGHT, LIGHT, marker
from hvd_imagenet.report.curves import Curve
from hvd_imagenet.report.figures import furthest, wants_log
from hvd_imagenet.report.plots import apart

MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
}
LONGEST_NAME = 48
FALL = 8  # times as large as the least error is the largest one, where an even axis would not show how curves end
TICKS = [digit * 10.0**power for power in (-2, -1, 0, 1) for digit in (1, 2, 5)] + [100.0]  # %
INSIDE = 6  # arms whose legend has room among the curves
HEIGHT, IN_THE_LEGEND = 6.4, 0.19  # inches: of the picture at least, and of an arm's line


def png(arms: list[Arm], made_by: str) -> bytes:
    """The picture of arms, as PNG.

    Args:
        made_by: stands in the file.
    """
    from matplotlib.figure import Figure  # a second: only where a picture is asked for

    size = (9, HEIGHT) if len(arms) <= INSIDE else (13, max(HEIGHT, 0.6 + IN_THE_LEGEND * len(arms)))
    figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT["card"])
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    rates = [curves.sampled(furthest(arm, "lr")) for arm in arms]
    handles = []
    for number, (arm, rate) in enumerate(zip(arms, rates, strict=True)):
        colour = ARMS_ON_LIGHT[number % len(ARMS_ON_LIGHT)]
        _curves(upper, curves.training_errors(arm.runs), color=colour, lw=1, ls=":")
        signs = {"marker": MARKERS[marker(number)], "ms": 5, "markevery": (number % 7 / 70, 0.1)}
        validation = [curves.validation_error(run) for run in arm.runs]
        handles.append(_curves(upper, validation, color=colour, lw=1.8, **signs))
        lower.plot(*rate, color=colour, lw=1.4, **signs)
    _show_the_end(upper)
    upper.set(ylabel="top-1 error, %")
    lower.set(xlabel="epoch", ylabel="learning rate", yscale="log" if wants_log(rates) else "linear")
    for axes in (upper, lower):
        axes.grid(color=LIGHT["grid"])
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(upper, handles, [arm.name for arm in arms], several=any(len(arm.runs) > 1 for arm in arms))
    with warnings.catch_warnings(), io.BytesIO() as file:
        warnings.simplefilter("ignore")  # of characters that the font has not, which are shown as boxes
        figure.savefig(file, format="png", dpi=150, metadata={"Software": made_by})
        return file.getvalue()


def _curves(axes: Any, of: list[Curve], **style: Any) -> Any:
    """An arm's curves as their mean, with a band of two standard deviations; the line, for the legend."""
    over = curves.spread(of)
    if len(over.epochs) == 1:
        style = {"marker": "o", "mfc": "none", **style}
    axes.fill_between(
        over.epochs, over.mean - 2 * over.std, over.mean + 2 * over.std, color=style["color"], alpha=0.18, lw=0
    )
    return axes.plot(over.epochs, over.mean, **style)[0]


def _show_the_end(axes: Any) -> None:
    """Make an axis of errors logarithmic where they fall far."""
    values = [value for line in axes.lines for value in line.get_ydata() if value > 0]
    if values and max(values) > FALL * min(values):
        limits = 0.9 * min(values), min(100.0, 1.1 * max(values))
        axes.set(yscale="log", ylim=limits)
        ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _legend(axes: Any, handles: list[Any], names: list[str], several: bool) -> None:
    """Names as they are: matplotlib takes what is between $ for mathematics, and leaves out what begins with _."""
    shown = apart(names, LONGEST_NAME)
    title = "validation solid, training dotted" + (", mean ± 2 std" if several else "")
    few = len(names) <= INSIDE
    make, place = (axes.legend, "upper right") if few else (axes.figure.legend, "outside right upper")
    signs = {"title": title, "frameon": False, "fontsize": 9, "title_fontsize": 9, "alignment": "left"}
    legend = make(handles, ["x"] * len(handles), loc=place, **signs)
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
