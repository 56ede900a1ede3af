"""Folders of runs as the trainer leaves them, made up in milliseconds: with the shape of ImageNet's curves."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import yaml

SIZE = 1_281_167
MILESTONES = (30, 60, 80)
STEP = {"event": "step", "step": 20, "samples_seen": 640, "epoch": 0.5, "top1": 0.25, "lr": 0.1, "global_batch": 32}
EVAL = {"event": "eval", "step": 40, "epoch": 1.0, "loss": 1.5, "top1": 0.5, "top5": 0.875, "count": 23}
RESTART = {"event": "restart", "step": 30, "samples_seen": 960, "workers": 3, "workers_before": 4, "reason": "lost <b>"}


def make_run(
    folder: Path,
    epochs: int = 90,
    seed: int = 0,
    batch: int = 8192,
    warmup: str = "gradual",
    worse: float = 0.0,
    lines_per_epoch: int = 8,
    until: float | None = None,
    status: str | None = "done",
    split: bool = True,
    restarts: list[dict] = (),
    lock_age: float = 0.0,
    **settings,
) -> Path:
    """A run.

    Args:
        worse: added to its error, in percent.
        lines_per_epoch: logged steps.
        until: the epoch that it has come to; None: all.
        status: as in status.json; None: there is no such file.
        split: whether it logs all that newer versions do.
        restarts: events of that kind.
        settings: by their dotted keys.
    """
    chance = random.Random(f"{seed} {batch} {warmup} {worse}")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_settings(
        folder, {"epochs": epochs, "seed": seed, "batch.global_size": batch, "lr.warmup.kind": warmup} | settings
    )
    worse += chance.gauss(0, 0.15)
    events = []
    reached = epochs if until is None else until
    evaluations = []
    for line in range(1, int(reached * lines_per_epoch) + 1):
        epoch = line / lines_per_epoch
        step = round(epoch * SIZE / batch)
        error = training_error(epoch, warmup) + worse
        events.append(step_event(step, step * batch / SIZE, batch, error, warmup, split, chance))
        if line % lines_per_epoch == 0:
            train = min(99.9, error + chance.gauss(0, 0.1))
            event = evaluation(
                step, step * batch / SIZE, error + validation_gap(epoch) + chance.gauss(0, 0.25), train, split
            )
            evaluations.append(event)
            events.append(event)
    for restart in restarts:
        at = next((n for n, event in enumerate(events) if event["step"] > restart["step"]), len(events))
        events.insert(at, {"event": "restart", "samples_seen": restart["step"] * batch, **restart})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if status:
        reason = {"done": "done", "running": None}.get(status, "worker 3 on node2: killed by signal 9")
        said = {"status": status, "exit_code": None, "reason": reason, "workers": [{"rank": n} for n in range(8)]}
        (folder / "status.json").write_text(json.dumps(said))
        (folder / "lock").write_text("")
    if status == "done":
        top1 = [event["top1"] for event in evaluations]
        result = {
            "val_top1": top1[-1],
            "val_top5": 0.93,
            "best_top1": max(top1),
            "median5_top1": statistics.median(top1[-5:]),
        }
        result |= {"epochs": reached, "steps": events[-1]["step"], "workers": 8, "images_per_second": 9800.0}
        (folder / "result.json").write_text(
            json.dumps({**result, "wall_seconds": 11_770.0, "restarts": list(restarts)})
        )
    return folder


def write_settings(folder: Path, dotted: dict) -> None:
    """A config.yaml with these settings and the defaults of all others."""
    settings = {"data.path": "/data/imagenet", "data.train_samples": SIZE, "model.classes": 1000, **dotted}
    nested = {}
    for key, value in settings.items():
        *groups, name = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(nested))


def training_error(epoch: float, warmup: str) -> float:
    """In percent, at an epoch."""
    fallen = sum(epoch > milestone for milestone in MILESTONES)
    level = (38.0, 29.0, 25.0, 23.4)[fallen]
    since = epoch - (0, *MILESTONES)[fallen]
    above = (62 if fallen == 0 else 3.5) * 0.72**since
    rough = {"none": 14 * 0.9**epoch, "constant": 6 * 0.92**epoch}.get(warmup, 0)
    return min(99.9, level + above + rough)


def validation_gap(epoch: float) -> float:
    return (6.0, 1.0, 0.2, 0.15)[sum(epoch > milestone for milestone in MILESTONES)] * (1 if epoch > 3 else 0.5)


def step_event(step, epoch, batch, error, warmup, split, chance) -> dict:
    rate = 0.1 * batch / 256 * 0.1 ** sum(epoch > milestone for milestone in MILESTONES)
    if warmup == "gradual" and epoch < 5:
        rate = 0.1 + (rate - 0.1) * epoch / 5
    event = {"event": "step", "step": step, "samples_seen": step * batch, "epoch": epoch}
    event |= {"loss": error / 15, "top1": max(0.0, min(1.0, 1 - error / 100 + chance.gauss(0, 0.01))), "lr": rate}
    event |= {"global_batch": batch, "images_per_second": 9800 + chance.gauss(0, 250)}
    if split:
        event |= {"top5": 0.8, "grad_norm": 0.6 + 3 / (1 + epoch) + chance.random() / 4}
        event |= {"weight_norm": 60 - 20 * 0.95**epoch, "data_seconds": 0.03 + 0.01 * chance.random()}
        event |= {
            "compute_seconds": 0.72 + 0.02 * chance.random(),
            "communication_seconds": 0.06 + 0.02 * chance.random(),
        }
        event |= {"slowest_rank": 3, "slowest_host": "node2", "slowest_seconds": 0.8, "median_seconds": 0.75}
    return event


def evaluation(step, epoch, error, train, split) -> dict:
    event = {"event": "eval", "step": step, "epoch": epoch, "loss": error / 14, "top1": max(0.0, 1 - error / 100)}
    event |= {"top5": max(0.0, 1 - error / 350), "count": 50_000}
    if split:
        event |= {"train_loss": train / 15, "train_top1": 1 - train / 100, "train_top5": 1 - train / 350}
    return event


def write_lines(folder: Path, *said: dict | bytes) -> Path:
    """A metrics.jsonl of events, and of lines as they are."""
    texts = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in said)
    (folder / "metrics.jsonl").write_bytes(b"".join(text + b"\n" for text in texts))
    return folder / "metrics.jsonl"


def write_evaluation(folder: Path, names: list[str], seed: int = 0) -> None:
    """An evaluation.json with classes of these names."""
    chance = random.Random(seed)
    classes = [{"name": name, "count": 50, "top1": 0.55 + 0.4 * chance.random(), "top5": 0.95} for name in names]
    pairs = [{"class": a, "taken_for": b, "count": 9, "share": 0.18} for a, b in zip(names, names[1:], strict=False)]
    said = {
        "checkpoint": "best",
        "step": 14076,
        "split": "val",
        "loss": 1.0,
        "top1": 0.76,
        "top5": 0.93,
        "count": 50_000,
    }
    (folder / "evaluation.json").write_text(json.dumps({**said, "classes": classes, "confusions": pairs[:20]}))
