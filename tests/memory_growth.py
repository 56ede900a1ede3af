"""Whether a run's memory grows: what its workers hold, over 10,000 steps.

    python tests/memory_growth.py [torch | keras] [STEPS]

A real run on two workers, with loader, log, evaluations and checkpoints, of a network so small that steps take
milliseconds. Prints the resident memory of each worker every tenth of the run, and by how much its median over the
last tenth is above that over the second one, in which everything has been used once. Exits with 1 above 2 %.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
from conftest import make_image_folder
from jobs import Job, gloo

SAMPLES, BATCH, EVERY = 120, 8, 20
MODEL = ["--model.name", "resnet8", "--model.classes", "2", "--data.image_size", "16", "--data.augment", "shift_crop"]
MODEL += ["--batch.global_size", BATCH, "--batch.micro_size", 4, "--lr.reference", 0.01, "--lr.reference_batch", BATCH]
LIMIT = 0.02  # of growth
PAUSE = 0.5  # seconds between two looks


def main(framework: str, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        images, run = make_image_folder(Path(folder) / "images", SAMPLES, 30), Path(folder) / "run"
        epochs = steps * BATCH / SAMPLES
        options = ["--framework", framework, "--data.path", images, "--epochs", epochs, "--log.every_steps", EVERY]
        options += ["--evaluate.every_epochs", epochs / 20, "--checkpoint.every_epochs", epochs / 20]
        held = watched(Job(gloo(2), run, *MODEL, *options), steps)
    grown = []
    for rank, of_worker in enumerate(held):
        tenths = [median(part) / 2**20 for part in of_worker]
        print(f"{framework}, worker {rank}, {steps:,} steps; MiB by tenths:", *(f"{tenth:,.1f}" for tenth in tenths))
        grown.append(tenths[-1] / tenths[1] - 1)
        print(f"  from the second tenth to the last: {grown[-1]:+.2%}")
    sys.exit(max(grown) > LIMIT)


def watched(job: Job, steps: int) -> list[list[list[int]]]:
    """Bytes held by each worker, by the tenth of the run in which they were."""
    held: list[list[list[int]]] = [[[] for _ in range(10)] for _ in range(2)]
    while job.process.poll() is None:
        if (done := steps_done(job.run)) is not None:
            for rank, pid in job.workers().items():
                with suppress(psutil.NoSuchProcess):  # it ends
                    held[rank][min(9, 10 * done // steps)].append(psutil.Process(pid).memory_info().rss)
        time.sleep(PAUSE)
    assert job.end() == 0, job.log()
    return held


def steps_done(run: Path) -> int | None:
    """Of a run, by the last whole line of its log; None: there is none yet."""
    try:
        *_, last = (run / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()
    except (FileNotFoundError, ValueError):
        return None
    return json.loads(last)["step"]


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["torch"]), int((sys.argv[2:3] or ["10000"])[0]))
