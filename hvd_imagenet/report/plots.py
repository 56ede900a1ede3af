"""The parts that Plotly's figures are put together from, as plain data: traces, axes, and texts that stay texts.

Colours are named by their CSS variables, ``--arm-0``: the page puts in those of its theme. Building plotly's own
objects instead would take longer than all else; tests/test_report_figures.py holds the data against its validators.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hvd_imagenet.report.arms import Arm
from hvd_imagenet.report.colours import colour, marker
from hvd_imagenet.report.curves import Curve, Spread, spread

DIGITS = 5  # of a number, which is more than a figure shows
MARKERS_ON_A_CURVE = 8
NAME, NARROW_NAME = 32, 14  # characters beside an axis, on a wide screen and on a narrow one
ARM, RUN = "arm", "run"  # what a trace shows, of which the page shows one or the other

Trace = dict[str, Any]


def text(words: str, longest: int = 48) -> str:
    """Words as Plotly shows them as they are, which takes some of HTML for markup; cut where they are long."""
    return html.escape(words if len(words) <= longest else f"{words[: longest - 1]}…", quote=False)


def apart(names: Sequence[str], longest: int) -> list[str]:
    """Names cut where they are long: at their ends, or in their middles if it is the ends that tell them apart."""
    long = [len(name) > longest for name in names]
    ends = [f"{name[: longest - 1]}…" if cut else name for name, cut in zip(names, long, strict=True)]
    if len(set(ends)) == len(set(names)):
        return ends
    before, after = longest // 2, (longest - 1) // 2
    return [f"{name[:before]}…{name[-after:]}" if cut else name for name, cut in zip(names, long, strict=True)]


def numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Values as JSON has them, in no more digits than can be seen."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in np.asarray(values).tolist()]


def line(arm: int, name: str, x: np.ndarray, y: np.ndarray, said: str, **style: Any) -> Trace:
    """A line of an arm.

    Args:
        said: of a point, when it is pointed at; Plotly puts the values in.
        style: ``dash``, ``width``, ``opacity``, ``level`` (`ARM` or `RUN`: which view it is of; else of both),
            ``symbols`` (the arm's markers on it), and what else a trace has.
    """
    symbols, level = style.pop("symbols", False), style.pop("level", None)
    trace = {
        "type": "scatter",
        "mode": "lines+markers" if symbols or len(x) == 1 else "lines",
        "x": numbers(x),
        "y": numbers(y),
        "name": text(name),
        "line": {"color": colour(arm), "width": style.pop("width", 2), "dash": style.pop("dash", "solid")},
        "hovertemplate": f"<b>%{{fullData.name}}</b><br>epoch %{{x:.4~g}}<br>{said}<extra></extra>",
        "meta": {"arm": arm, "level": level},
    }
    if "markers" in trace["mode"]:
        symbol = marker(arm) + ("-open" if trace["line"]["dash"] == "dot" else "")
        trace["marker"] = {"symbol": symbol, "size": 7, "color": colour(arm), "maxdisplayed": MARKERS_ON_A_CURVE}
    return {**trace, **style}


def band(arm: int, over: Spread) -> Trace:
    """Two standard deviations to either side of the mean, wherever there is one."""
    there = np.isfinite(over.std)
    x, mean, twice = over.epochs[there], over.mean[there], 2 * over.std[there]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": numbers(np.concatenate([x, x[::-1]])),
        "y": numbers(np.concatenate([mean + twice, (mean - twice)[::-1]])),
        "fill": "toself",
        "fillcolor": colour(arm).replace("arm", "band"),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "meta": {"arm": arm, "level": ARM},
    }


def curves(number: int, arm: Arm, of: list[Curve], what: str, unit: str, **style: Any) -> list[Trace]:
    """An arm's curves, one of each run: of one run as it is; of several also their mean with its band.

    Args:
        number: of the arm.
        what, unit: of the values.
    """
    value = f"{what} %{{y:.5~g}}{unit}"
    if len(arm.runs) == 1:
        return [line(number, arm.name, *of[0], value, **style)] if len(of[0].epochs) else []
    over = spread(of)
    if not len(over.epochs):
        return []
    beside = [[deviation, runs] for deviation, runs in zip(numbers(2 * over.std), over.runs.tolist(), strict=True)]
    said = f"{value}<br>mean of %{{customdata[1]}} runs, 2 std: %{{customdata[0]:.3~g}}{unit}"
    mean = line(number, arm.name, over.epochs, over.mean, said, level=ARM, customdata=beside, **style)
    style = {**style, "width": 1.2}
    single = [
        line(number, f"{arm.name}: {run.label}", *curve, value, level=RUN, **style)
        for run, curve in zip(arm.runs, of, strict=True)
        if len(curve.epochs)
    ]
    return [*([band(number, over)] if np.isfinite(over.std).any() else []), mean, *single]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the page's style."""
    own = {"title": {"text": title, "standoff": 8}, "gridcolor": "--grid", "linecolor": "--line", "zeroline": False}
    return {**own, "automargin": True, **more}


def figure(
    data: list[Trace], x: dict[str, Any], y: dict[str, Any], narrow: dict[str, Any] | None = None, **layout: Any
) -> dict[str, Any]:
    """Traces and axes as a whole figure.

    Args:
        narrow: what the y axis has instead on a narrow screen.
        layout: what else the figure has, or has in the place of what all have.
    """
    own = {
        "xaxis": x,
        "yaxis": y,
        "showlegend": False,
        "hovermode": "closest",
        "font": {"color": "--ink", "size": 13},
        "hoverlabel": {"bgcolor": "--card", "bordercolor": "--line", "font": {"color": "--ink"}, "align": "left"},
        "paper_bgcolor": "--card",
        "plot_bgcolor": "--card",
        "margin": {"l": 48, "r": 14, "t": 10, "b": 44},
        "height": 320,
        "uirevision": "keep",
        "meta": {"narrow": narrow or {}},
    }
    return {"data": data, "layout": {**own, **layout}}


def categories(names: list[str]) -> dict[str, dict[str, Any]]:
    """An axis from top to bottom with a name at each of 0, 1, 2, ..., and how it is on a narrow screen."""
    places = {"tickvals": list(range(len(names))), "range": [len(names) - 0.5, -0.5], "showgrid": False}
    wide, narrow = ([text(name) for name in apart(names, longest)] for longest in (NAME, NARROW_NAME))
    return {"y": axis("", ticktext=wide, **places), "narrow": {"ticktext": narrow}}


def over_epochs(data: list[Trace], title: str, **layout: Any) -> dict[str, Any]:
    """A figure over the epochs."""
    return figure(data, axis("epoch", rangemode="tozero"), axis(title, **layout.pop("y", {})), **layout)
