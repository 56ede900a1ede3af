"""Runs that workers leave and join, held against one on a single worker that nothing has happened to."""

import json

import numpy as np
from jobs import Job, steps_saved
from runs import GLOBAL, RECIPE, SAMPLES, metrics, weights

SLOW = RECIPE.replace("0.05", "0.0005")  # thousands of steps then agree to 1e-9
OPTIONS = ["--checkpoint.every_epochs", "null", "--evaluate.every_epochs", "100000", "--faults.commit_every_steps", "7"]
ENDLESS = ["--epochs", "100000"]
STEPS = 20


def further(run):
    """A condition: some steps more than now."""
    beyond = steps(run) + STEPS
    return lambda *_: steps(run) > beyond


def steps(run):
    return len(metrics(run, "step")) if (run / "metrics.jsonl").exists() else 0


def require_undisturbed(run, options, folder):
    """Finish a run that has saved and stopped; its samples, losses, weights and momentum are those of another.

    Args:
        options: of the run, but for its length.
        folder: for the other run.

    Returns:
        The restarts in its result.
    """
    last = steps_saved(run)[-1] + 3
    options = [*options, "--epochs", last * GLOBAL / SAMPLES]
    assert Job([], run, *options, "--resume").end(300) == 0
    assert Job([], folder / "alone", *options).end(300) == 0
    runs = run, folder / "alone"
    seen, expected = ([(e["step"], e["samples_seen"]) for e in metrics(run, "step")] for run in runs)
    assert seen == expected and len(seen) == last
    losses = ([event["loss"] for event in metrics(run, "step")] for run in runs)
    assert np.abs(np.subtract(*losses)).max() < 1e-9
    found, right = (weights(run, last) for run in runs)
    for kind in right:
        assert found[kind].keys() == right[kind].keys()
        assert all(np.abs(found[kind][name] - right[kind][name]).max() < 1e-9 for name in right[kind])
    *restarts, resumed = metrics(run, "restart")
    result = json.loads((run / "result.json").read_text())["restarts"]
    assert [event["step"] for event in result] == [event["step"] for event in (*restarts, resumed)]
    return result[:-1]
