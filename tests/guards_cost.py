"""What the guards cost: training steps with and without them, in interleaved blocks on two workers.

    horovodrun -np 2 --gloo python tests/guards_cost.py

With: requests to stop are taken and shared, every step's loss is looked at, heartbeats and the lock's are exchanged, a
witness waits. Without: nothing but steps. Prints the median of the blocks' ratios and its 95 % interval (by order
statistics); and, since a shared machine is too noisy for less than a percent, what the guards take by themselves.
"""

from __future__ import annotations

import math
import random
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np

from hvd_imagenet.backend import Batch
from hvd_imagenet.config import Config, DataSettings, FaultSettings, ModelSettings
from hvd_imagenet.faults.fingerprints import require_same_weights
from hvd_imagenet.faults.job import Job
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.policy import BatchSettings, StepPlan
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.torch.backend import Backend

# Name, image size, classes, samples of a micro-batch (of which a step has two), steps of a block, pairs of blocks.
CASES = [("resnet8", 28, 10, 32, 60, 24), ("resnet50", 224, 1000, 4, 2, 24)]
STEPS, IDLE_SECONDS = 20, 10
SETTLE_SECONDS = 1.5  # for the witness to start


def main() -> None:
    for name, *case in CASES:
        measure(name, *case)


def measure(name: str, size: int, classes: int, micro: int, steps: int, pairs: int) -> None:
    config = Config(
        model=ModelSettings(name, classes),
        data=DataSettings(image_size=size),
        batch=BatchSettings(2 * micro, micro),
        faults=FaultSettings(),
    )
    backend = Backend(config)
    rng = np.random.default_rng(backend.rank)
    images = rng.standard_normal((micro, size, size, 3), np.float32)
    batches = [Batch(images, rng.integers(0, classes, micro))] * (2 // backend.size)
    plan = StepPlan(0, 0, 0.0, 2 * micro, 2, 1e-3, 1.0)
    for _ in range(max(steps, 3)):
        backend.train_step(plan, batches)

    with tempfile.TemporaryDirectory() as folder:
        dice, seconds = random.Random(0), {True: [], False: []}
        for pair in range(pairs):
            for guarded in dice.sample([True, False], 2):
                run = RunDirectory(Path(folder) / f"{pair}-{guarded}")
                seconds[guarded].append(block(backend, config, plan, batches, steps, run if guarded else None))
        calls, beside = alone(backend, config, plan, batches, Path(folder) / "alone")
    comparing = []
    for _ in range(20):
        start = time.perf_counter()
        require_same_weights(backend, 0)
        comparing.append(time.perf_counter() - start)
    if backend.rank == 0:
        every = config.faults.fingerprint_every_steps
        report(name, backend.size, steps, seconds)
        print(
            f"  by themselves: {calls * 1e6:.0f} us per step, {beside * 1e6:.0f} us per second beside the steps, "
            f"{median(comparing) * 1e3:.1f} ms to compare weights each {every} steps",
            flush=True,
        )


def block(backend, config: Config, plan: StepPlan, batches, steps: int, run: RunDirectory | None) -> float:
    """Seconds for so many steps; with the guards of a run if there is one."""
    if run is None:
        time.sleep(SETTLE_SECONDS)
        backend.gather(None)
        start = time.perf_counter()
        for _ in range(steps):
            backend.train_step(plan, batches)
        backend.take_totals(wait=True)
        return time.perf_counter() - start
    with StopRequests() as stop, Job(backend, run, config.faults, stop) as job:
        if backend.rank == 0:
            job.claim("no")
        job.begin()
        time.sleep(SETTLE_SECONDS)
        backend.gather(None)
        start = time.perf_counter()
        for _ in range(steps):
            backend.train_step(plan, batches, stop=asked(stop))
            look(backend)
        backend.take_totals(wait=True)
        return time.perf_counter() - start


def asked(stop: StopRequests) -> bool:
    return bool(stop.asked)


def look(backend) -> None:
    """What the trainer does after every step."""
    for _, totals in backend.take_totals(wait=False):
        if not math.isfinite(totals.loss_sum) or totals.stop:
            raise RuntimeError("nothing should have happened")


def alone(backend, config: Config, plan: StepPlan, batches, folder: Path) -> tuple[float, float]:
    """The guards by themselves: seconds that a step waits for them, and CPU seconds per second beside the steps."""
    with StopRequests() as stop, Job(backend, RunDirectory(folder), config.faults, stop) as job:
        if backend.rank == 0:
            job.claim("no")
        job.begin()
        time.sleep(SETTLE_SECONDS)
        calls = []
        for _ in range(STEPS):
            backend.train_step(plan, batches)
            start = time.perf_counter()
            asked(stop)
            look(backend)
            calls.append(time.perf_counter() - start)
        start = cpu_of_guards()
        time.sleep(IDLE_SECONDS)
        return median(calls), (cpu_of_guards() - start) / IDLE_SECONDS


def cpu_of_guards() -> float:
    """CPU seconds that the guards' threads have taken."""
    threads = [
        thread for thread in threading.enumerate() if thread.name in ("watchdog", "lock", "stop requests", "stop file")
    ]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in threads)


def report(name: str, workers: int, steps: int, seconds: dict) -> None:
    pairs = len(seconds[True])
    ratios = sorted(one / other - 1 for one, other in zip(seconds[True], seconds[False], strict=True))
    differences = [(one - other) / steps for one, other in zip(seconds[True], seconds[False], strict=True)]
    step = median(seconds[False]) / steps
    reach = math.floor(pairs / 2 - 0.98 * math.sqrt(pairs)) - 1  # of the 95 % interval of a median
    print(
        f"{name} on {workers} workers, {pairs} pairs of blocks of {steps} steps, {step * 1e3:.1f} ms per step:\n"
        f"  guards in every step: {median(ratios):+.2%} [{ratios[reach]:+.2%}, {ratios[-1 - reach]:+.2%}], "
        f"{median(differences) * 1e6:+.0f} us per step",
        flush=True,
    )


if __name__ == "__main__":
    main()
