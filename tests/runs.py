"""A small run of the real command, and reading what it leaves."""

import json

import numpy as np
import safetensors.numpy

from hvd_imagenet import cli

EPOCHS, SAMPLES, GLOBAL, MICRO = 3, 50, 20, 4  # five micro-batches: 3 + 2, or 2 + 2 + 1; one of them spans two epochs
RECIPE = f"""
model: {{name: resnet8, classes: 2}}
data: {{image_size: 16, augment: random_resized_crop}}
batch: {{global_size: {GLOBAL}, micro_size: {MICRO}}}
lr: {{reference: 0.05, reference_batch: 8, warmup: {{kind: gradual, epochs: 1}}, schedule: {{milestones: [2]}}}}
epochs: {EPOCHS}
seed: 3
precision: float64
log: {{every_steps: 1}}
"""


def train(recipe, data, run, *options):
    return cli.main(["train", "--config", recipe, "--data.path", str(data), "--run", str(run), *options])


def metrics(run, kind):
    whole = (run / "metrics.jsonl").read_text().rpartition("\n")[0]  # a run that goes on may be writing a line
    events = map(json.loads, whole.splitlines())
    return [event for event in events if event["event"] == kind]


def weights(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {f: safetensors.numpy.load_file(folder / f"{f}.safetensors") for f in ("model", "optimizer")}


def closest(one, other):
    """The largest difference relative to the largest value of its array."""
    assert one.keys() == other.keys()
    return max(np.abs(one[k] - other[k]).max() / max(np.abs(one[k]).max(), 1e-3) for k in one)
