"""The figures of the report: what each shows, in words and in Plotly's terms."""

from __future__ import annotations

from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from hvd_imagenet.report import curves, plots
from hvd_imagenet.report.arms import Arm
from hvd_imagenet.report.curves import Curve
from hvd_imagenet.report.plots import Trace, axis, line, over_epochs, text
from hvd_imagenet.report.restarts import Restart

PARTS = {"data": "waiting for data", "compute": "computing", "communication": "waiting for the all-reduce"}
PART_COLOURS = {"data": "--arm-6", "compute": "--arm-0", "communication": "--arm-1"}
PATTERNS = {"data": "", "compute": "", "communication": "/"}
CLASSES = 25  # in the figure at most
LOG = {"type": "log", "tickformat": "~g", "nticks": 6}  # an axis
LOG_BELOW = 0.05  # of the largest: where a quarter of a curve is there, a linear axis shows nothing of it
THINNED = f"Longer curves are means over {curves.POINTS} equal stretches."


class Figure(NamedTuple):
    """A figure.

    Attributes:
        name: its id in the page.
        title, caption: what it shows, for all; label: for those who do not see it.
        plot: data and layout, as Plotly takes them.
        key: what its colours or lines mean, beside those of the arms: a style of the page, and words.
    """

    name: str
    title: str
    caption: str
    label: str
    plot: dict[str, Any]
    key: dict[str, str] = {}


def figures(arms: list[Arm], restarts: list[Restart]) -> list[Figure]:
    """All figures that there is something to show in."""
    made = [error(arms, restarts), rate(arms), batch(arms), throughput(arms, restarts), time_split(arms)]
    made += [norms(arms, "grad_norm", "Gradient norm"), norms(arms, "weight_norm", "Weight norm"), classes(arms)]
    return [one for one in made if one.plot["data"]]


def error(arms: list[Arm], restarts: list[Restart]) -> Figure:
    """Training and validation error, as in the paper's figures 2 to 4."""
    data = []
    for number, arm in enumerate(arms):
        training = curves.training_errors(arm.runs)
        data += plots.curves(number, arm, training, "training error", " %", dash="dot", width=1.4)
    for number, arm in enumerate(arms):
        validation = [curves.validation_error(run) for run in arm.runs]
        data += plots.curves(number, arm, validation, "validation error", " %", symbols=True, width=2.4)
    several = any(len(arm.runs) > 1 for arm in arms)
    caption = "Validation error after each evaluation, training error of the samples before it."
    if not all(curves.logs_training_error(run) for arm in arms for run in arm.runs):
        caption += " Where runs have not logged the latter, it is the mean of the epoch's logged steps."
    if several:
        caption += " Over several runs: the mean, in a band of ± 2 standard deviations."
    return Figure(
        "error",
        "Top-1 error",
        caption,
        "Training and validation top-1 error in percent against epochs; the table of results has the final values.",
        over_epochs(data + _marks(restarts) if data else [], "top-1 error, %", height=460, **_second_axis(restarts)),
        {"solid": "validation", "dotted": "training"} | ({"restart": "restart"} if restarts else {}),
    )


def rate(arms: list[Arm]) -> Figure:
    """The learning rate."""
    found = [curves.sampled(furthest(arm, "lr")) for arm in arms]
    data = _lines(arms, found, "learning rate %{y:.5~g}")
    kind = LOG if wants_log(found) else {"rangemode": "tozero"}
    label = "Learning rate against epochs."
    return Figure("rate", "Learning rate", _of_furthest(arms), label, over_epochs(data, "learning rate", y=kind))


def batch(arms: list[Arm]) -> Figure:
    """The global batch."""
    found = [curves.sampled(furthest(arm, "global_batch")) for arm in arms]
    data = _lines(arms, found, "%{y:,} images per step")
    for trace in data:
        trace["line"]["shape"] = "vh"  # a line tells of the steps before it
    plot = over_epochs(data, "images per step", y={"rangemode": "tozero"})
    label = "Images per step against epochs."
    return Figure(
        "batch", "Batch size", f"Images per step, over all workers. {_of_furthest(arms)}".strip(), label, plot
    )


def throughput(arms: list[Arm], restarts: list[Restart]) -> Figure:
    """Images per second."""
    data = _spreads(arms, "images_per_second", "", " images/s")
    plot = over_epochs(
        data + _marks(restarts) if data else [], "images/s", y={"rangemode": "tozero"}, **_second_axis(restarts)
    )
    caption = f"Images per second over all workers, without evaluations and checkpoints. {THINNED}"
    return Figure("throughput", "Throughput", caption, "Images per second against epochs.", plot)


def time_split(arms: list[Arm]) -> Figure:
    """Where the time of a step goes: of one run over the epochs, of several, or of a single step, on average."""
    key = {f"part-{part}": words for part, words in PARTS.items()}
    if len(arms) == 1 and len(arms[0].runs) == 1 and len(arms[0].runs[0].events.steps["step"]) > 1:
        plot = over_epochs(_time_over_epochs(arms[0]), "ms per step", y={"rangemode": "tozero"})
        caption = f"Mean over the workers. {THINNED}"
        return Figure("time", "Time of a step", caption, "Milliseconds per step by what they are spent on.", plot, key)
    data = []
    for number, arm in enumerate(arms):
        data += _time_bars(number, arm)
    axes = {"x": axis("ms per step"), **plots.categories([arm.name for arm in arms])}
    plot = plots.figure(data, **axes, barmode="stack", bargap=0.35, height=max(200, 90 + 34 * len(arms)))
    caption = "Mean over workers, steps and runs."
    return Figure("time", "Time of a step", caption, "Milliseconds per step by what they are spent on.", plot, key)


def norms(arms: list[Arm], key: str, title: str) -> Figure:
    """The norm of gradients or weights."""
    data = _spreads(arms, key, f"{title.lower()} ", "")
    of = "mean loss gradient of the step, without weight decay" if key == "grad_norm" else "weights before the step"
    plot = over_epochs(data, "L2 norm", y=LOG if key == "grad_norm" else {})
    return Figure(key, title, f"L2 norm of the {of}. {THINNED}", f"{title} against epochs.", plot)


def classes(arms: list[Arm]) -> Figure:
    """The error of the classes that are hardest for all evaluated runs together."""
    evaluated = [(n, run) for n, arm in enumerate(arms) for run in arm.runs if run.accounts.evaluation]
    errors: dict[str, list[float]] = {}
    for _, run in evaluated:
        for one in run.accounts.evaluation.classes:
            errors.setdefault(one.name, []).append(100 * (1 - one.top1))
    worst = sorted(errors, key=lambda name: -fmean(errors[name]))[:CLASSES]
    data = []
    for number, run in evaluated:
        found = {one.name: 100 * (1 - one.top1) for one in run.accounts.evaluation.classes}
        shown = [name for name in worst if name in found]
        trace = line(
            number,
            run.label,
            np.array([found[name] for name in shown]),
            np.array([worst.index(name) for name in shown], dtype=float),
            "",
            mode="markers",
            text=[text(name) for name in shown],
            hovertemplate="<b>%{fullData.name}</b><br>%{text}<br>%{x:.2f} %<extra></extra>",
        )
        data.append({**trace, "marker": {**_dot(number), "size": 10, "opacity": 0.85}})
    axes = {"x": axis("top-1 error, %", rangemode="tozero"), **plots.categories(worst)}
    axes["y"] |= {"showgrid": True}
    plot = plots.figure(data, **axes, height=max(220, 90 + 24 * len(worst)))
    which = f"The {len(worst)} hardest of {len(errors):,} classes" if len(errors) > len(worst) else "All classes"
    caption = f"{which}, as hvd-imagenet evaluate has found; a mark for each run."
    return Figure("classes", "Error by class", caption, "Top-1 error of classes, in percent.", plot)


def furthest(arm: Arm, key: str) -> Curve:
    """What an arm's run that has got furthest has logged: of what is planned, all runs of an arm have the same."""
    return max((curves.logged(run, key) for run in arm.runs), key=lambda curve: curve.epochs.max(initial=-1))


def wants_log(found: list[Curve]) -> bool:
    """Whether a curve is so low for so long that a linear axis would not show it."""
    values = [curve.values for curve in found if len(curve.values)]
    if not values or min(of.min() for of in values) <= 0:
        return False
    return any(np.mean(of < LOG_BELOW * of.max()) > 0.25 for of in values)


def _of_furthest(arms: list[Arm]) -> str:
    return "Of arms with several runs: the one that has got furthest." if any(len(a.runs) > 1 for a in arms) else ""


def _lines(arms: list[Arm], found: list[Curve], said: str) -> list[Trace]:
    return [
        line(n, arm.name, *curve, said, symbols=True)
        for n, (arm, curve) in enumerate(zip(arms, found, strict=True))
        if len(curve.epochs)
    ]


def _spreads(arms: list[Arm], key: str, what: str, unit: str) -> list[Trace]:
    data = []
    for number, arm in enumerate(arms):
        found = curves.thinned([curves.logged(run, key) for run in arm.runs])
        data += plots.curves(number, arm, found, what or "throughput", unit, width=1.6, symbols=True)
    return data


def _time_over_epochs(arm: Arm) -> list[Trace]:
    data = []
    for part, words in PARTS.items():
        (curve,) = curves.thinned([curves.logged(arm.runs[0], f"{part}_seconds")])
        if len(curve.epochs):
            data.append(line(0, arm.name, curve.epochs, 1000 * curve.values, f"{words} %{{y:.4~g}} ms", stackgroup="1"))
            data[-1]["line"] = {"width": 0.5, "color": PART_COLOURS[part]}
            data[-1]["fillcolor"] = PART_COLOURS[part]
            data[-1]["fillpattern"] = _pattern(part)
    return data


def _time_bars(number: int, arm: Arm) -> list[Trace]:
    data = []
    for part, words in PARTS.items():
        values = np.concatenate([curves.logged(run, f"{part}_seconds").values for run in arm.runs])
        if len(values):
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "x": plots.numbers([1000 * values.mean()]),
                    "y": [number],
                    "name": text(arm.name),
                    "marker": {"color": PART_COLOURS[part], "pattern": _pattern(part)},
                    "hovertemplate": f"<b>%{{fullData.name}}</b><br>{words} %{{x:.4~g}} ms<extra></extra>",
                    "meta": {"arm": number, "level": None},
                }
            )
    return data


def _pattern(part: str) -> dict[str, Any]:
    return {"shape": PATTERNS[part], "size": 7, "solidity": 0.25, "fgcolor": "--card", "fillmode": "overlay"}


def _dot(number: int) -> dict[str, Any]:
    return {"symbol": plots.marker(number), "color": plots.colour(number)}


def _marks(restarts: list[Restart]) -> list[Trace]:
    """A thin upright line for each restart, from the bottom of the figure to its top."""
    return [
        line(
            restart.arm,
            restart.run,
            np.full(2, restart.epoch),
            np.array([0.0, 1.0]),
            "",
            width=1,
            dash="dashdot",
            opacity=0.7,
            yaxis="y2",
            symbols=True,
            text=2 * [text(restart.told, 160)],
            hovertemplate="<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        )
        for restart in restarts
        if restart.epoch is not None
    ]


def _second_axis(restarts: list[Restart]) -> dict[str, Any]:
    marks = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    return {"yaxis2": marks} if any(restart.epoch is not None for restart in restarts) else {}
