"""Curves over the epochs, and their mean and spread over the runs of an arm."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hvd_imagenet.report.run import Run

POINTS = 240  # of a curve at most, which is more than one can see


class Curve(NamedTuple):
    """Values of a run over the epochs: float64 arrays of one length, nothing missing."""

    epochs: np.ndarray
    values: np.ndarray


class Spread(NamedTuple):
    """Mean and standard deviation (of a sample, n - 1) over runs, at each epoch over those that have a value there.

    Attributes:
        epochs, mean, std, runs: float64 arrays of one length; the std of a single value is NaN.
    """

    epochs: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    runs: np.ndarray


def validation_error(run: Run) -> Curve:
    """Top-1 error in percent, at each evaluation."""
    return Curve(run.events.evaluations["epoch"], 100 * (1 - run.events.evaluations["top1"]))


def training_errors(runs: list[Run]) -> list[Curve]:
    """Top-1 errors of an arm's runs in percent: as their evaluations say, of all samples since the one before.

    Where a run has none of these, those of its arm are all worked out from logged steps, so that they can be compared.
    """
    if all(map(logs_training_error, runs)):
        return [
            _present(Curve(of["epoch"], 100 * (1 - of["train_top1"]))) for of in (r.events.evaluations for r in runs)
        ]
    return [of_epochs(run) for run in runs]


def logs_training_error(run: Run) -> bool:
    """Whether a run's evaluations have the training error, too."""
    return bool(np.isfinite(run.events.evaluations["train_top1"]).any())


def of_epochs(run: Run) -> Curve:
    """Training top-1 error in percent: of each epoch, the mean of its logged steps, weighted by their batches.

    A step belongs to the epoch that it begins in. An epoch that is not over is left out while there is another.
    """
    steps = run.events.steps
    right = (steps["epoch"] >= 0) & (steps["top1"] >= 0) & (steps["global_batch"] > 0) & (steps["samples_seen"] > 0)
    epochs, top1, batch, samples = (steps[key][right] for key in ("epoch", "top1", "global_batch", "samples_seen"))
    begun = epochs * (1 - (batch - 0.5) / samples)  # half a sample on: what begins with an epoch is not just before it
    ends, which = np.unique(np.floor(begun) + 1, return_inverse=True)
    means = np.bincount(which, top1 * batch) / np.bincount(which, batch)
    if len(ends) and ends[-1] > epochs.max():
        ends[-1] = epochs.max()
        if len(ends) > 1 and not run.done:
            ends, means = ends[:-1], means[:-1]
    return Curve(ends, 100 * (1 - means))


def logged(run: Run, key: str) -> Curve:
    """A value of the logged steps; of those that have it."""
    return _present(Curve(run.events.steps["epoch"], run.events.steps[key]))


def thinned(curves: list[Curve], points: int = POINTS) -> list[Curve]:
    """The curves of an arm, where one has more points: the means of equal stretches of the epochs, at their middles."""
    if max((len(curve.epochs) for curve in curves), default=0) <= points:
        return curves
    edges = np.linspace(0, max(curve.epochs.max(initial=0) for curve in curves), points + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    found = []
    for curve in curves:
        which = np.clip(np.searchsorted(edges, curve.epochs, side="left") - 1, 0, points - 1)
        counts = np.bincount(which, minlength=points)
        sums = np.bincount(which, curve.values, minlength=points)
        found.append(Curve(middles[counts > 0], sums[counts > 0] / counts[counts > 0]))
    return found


def sampled(curve: Curve, points: int = POINTS) -> Curve:
    """Some of a curve's own points, as of steps and ramps, of which a mean would be none."""
    chosen = np.unique(np.linspace(0, len(curve.epochs) - 1, points).round().astype(int)) if len(curve.epochs) else []
    chosen = np.asarray(chosen, dtype=int)
    return Curve(curve.epochs[chosen], curve.values[chosen])


def spread(curves: list[Curve]) -> Spread:
    """Mean and spread over runs."""
    epochs = np.unique(np.concatenate([curve.epochs for curve in curves]))
    values = np.full((len(curves), len(epochs)), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[np.searchsorted(epochs, curve.epochs)] = curve.values
    there = np.isfinite(values)
    runs = there.sum(axis=0)
    mean = np.where(there, values, 0).sum(axis=0) / np.maximum(runs, 1)
    squares = np.where(there, (values - mean) ** 2, 0).sum(axis=0)
    std = np.where(runs > 1, np.sqrt(squares / np.maximum(runs - 1, 1)), np.nan)
    return Spread(epochs, mean, std, runs)


def _present(curve: Curve) -> Curve:
    there = np.isfinite(curve.values)
    return Curve(curve.epochs[there], curve.values[there])
