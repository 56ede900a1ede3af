"""What logging costs: training steps with and without it, in interleaved blocks.

    python tests/logging_cost.py [torch | keras]        also under: horovodrun -np 2 --gloo

With: every 20 steps, as by default, a line with norms and times, in metrics.jsonl, TensorBoard, MLPerf's log, log.txt
and the console. Without: nothing but steps and their totals. Prints the median of the blocks' ratios and its 95 %
interval (by order statistics); and, since a shared machine is too noisy for less than a percent, what a line takes by
itself: of the training thread, and of the threads beside it.
"""

from __future__ import annotations

import io
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console

from hvd_imagenet import backend as backends
from hvd_imagenet.backend import Batch
from hvd_imagenet.config import Config, DataSettings, ModelSettings
from hvd_imagenet.metrics.console import RunConsole
from hvd_imagenet.metrics.journal import Journal
from hvd_imagenet.metrics.lines import MetricsLines
from hvd_imagenet.metrics.mllog import MLPerfLog
from hvd_imagenet.metrics.spending import Spending
from hvd_imagenet.metrics.tensorboard import TensorBoardFile
from hvd_imagenet.metrics.words import LogFile
from hvd_imagenet.policy import BatchSettings, StepPlan

# Name, image size, classes, samples of a worker's step, lines of a block, pairs of blocks.
CASES = [("resnet8", 28, 10, 64, 1, 36), ("resnet50", 224, 1000, 2, 1, 9)]
EVERY = 20  # log.every_steps


def main(framework: str) -> None:
    for name, *case in CASES:
        measure(framework, name, *case)


def measure(framework: str, name: str, size: int, classes: int, samples: int, lines: int, pairs: int) -> None:
    config = Config(
        framework=framework,
        model=ModelSettings(name, classes),
        data=DataSettings(image_size=size),
        batch=BatchSettings(samples, samples),
    )
    backend = backends.load(framework)(config)
    rng = np.random.default_rng(backend.rank)
    batch = Batch(rng.standard_normal((samples, size, size, 3), np.float32), rng.integers(0, classes, samples))
    plan = StepPlan(0, 0, 0.0, samples * backend.size, backend.size, 1e-3, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(listeners(config, backend, Path(folder)) if backend.rank == 0 else [])
        spending = Spending(["host"] * backend.size)
        taken: dict[bool, list[float]] = {True: [], False: []}
        told: list[float] = []
        dice = random.Random(0)
        for pair in range(-1, pairs):  # the first is not counted
            for logs in dice.sample([True, False], 2):
                start = time.perf_counter()
                for _ in range(lines):
                    told_seconds = steps(backend, plan, batch, spending, journal if logs else None)
                    told += [told_seconds] if logs and pair >= 0 else []
                if pair >= 0:
                    taken[logs].append(time.perf_counter() - start)
        beside = line_by_itself(journal) if backend.rank == 0 else 0.0
        journal.close()
    if backend.rank == 0:
        tell(f"{name} in {framework} on {backend.size}", lines, taken, told, beside)


def listeners(config: Config, backend, folder: Path) -> list:
    policy = config.policy(1_281_167)
    return [
        MetricsLines(folder / "metrics.jsonl", 0),
        TensorBoardFile(folder / "tensorboard", 0),
        MLPerfLog(folder / "mllog.txt", config, policy, backend.size, 50_000, 0, True),
        LogFile(folder / "log.txt", policy),
        RunConsole(policy, Console(file=io.StringIO())),
    ]


def steps(backend, plan: StepPlan, batch: Batch, spending: Spending, journal: Journal | None) -> float:
    """Steps until a line, and the line if there is a journal; the seconds that the training thread takes to tell it."""
    for step in range(EVERY):
        logs = step + 1 == EVERY
        backend.train_step(plan, [batch], norms=logs and journal is not None)
        taken = backend.take_totals(wait=logs)
        if journal:
            for _, totals in taken:
                spending.add(totals)
    start = time.perf_counter()
    if journal:
        journal.step(line(taken[-1][1], spending))
    return time.perf_counter() - start


def line(totals, spending: Spending) -> dict:
    values = {"step": EVERY, "samples_seen": 100, "epoch": 0.1, "loss": totals.loss, **totals.accuracies(), "lr": 0.1}
    values |= {"global_batch": 256, "images_per_second": 100.0, **spending.since()}
    return values | {"grad_norm": totals.norms.gradient, "weight_norm": totals.norms.weights}


def line_by_itself(journal: Journal) -> float:
    """Seconds that the thread beside the training takes for a line."""
    values = {"step": 1, "samples_seen": 100, "epoch": 0.1, "loss": 1.0, "top1": 0.5, "top5": 0.9, "lr": 0.1}
    values |= {"global_batch": 256, "images_per_second": 100.0, "grad_norm": 1.0, "weight_norm": 1.0}
    journal.flush()
    start = time.perf_counter()
    for _ in range(100):
        journal.step(values)
    journal.flush()
    return (time.perf_counter() - start) / 100


def tell(what: str, lines: int, taken: dict, told: list[float], beside: float) -> None:
    pairs = len(taken[True])
    ratios = sorted(one / other - 1 for one, other in zip(taken[True], taken[False], strict=True))
    reach = max(0, math.floor(pairs / 2 - 0.98 * math.sqrt(pairs)) - 1)  # of the 95 % interval of a median
    step = median(taken[False]) / lines / EVERY
    print(
        f"{what} worker(s), {pairs} pairs of blocks of {lines * EVERY} steps, {step * 1e3:.1f} ms per step:\n"
        f"  with logging {median(ratios):+.2%} [{ratios[reach]:+.2%}, {ratios[-1 - reach]:+.2%}]\n"
        f"  by themselves: telling a line {median(told) * 1e6:.0f} us, and {beside * 1e6:.0f} us beside the training, "
        f"each {EVERY} steps: {(median(told) + beside) / EVERY / step:.3%}",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "torch")
