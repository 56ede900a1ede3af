"""TensorBoard's event files of a run."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from hvd_imagenet.metrics.appended import AppendedFile
from hvd_imagenet.metrics.journal import Listener

# Tags by the keys of metrics.jsonl.
STEP_TAGS = {
    "loss": "train/loss",
    "top1": "train/top1",
    "top5": "train/top5",
    "lr": "learning_rate",
    "global_batch": "global_batch",
    "images_per_second": "images_per_second",
    "data_seconds": "step_seconds/data",
    "compute_seconds": "step_seconds/compute",
    "communication_seconds": "step_seconds/communication",
    "slowest_seconds": "worker_seconds/slowest",
    "median_seconds": "worker_seconds/median",
    "grad_norm": "norm/gradient",
    "weight_norm": "norm/weights",
}
EVALUATION_TAGS = {"loss": "validation/loss", "top1": "validation/top1", "top5": "validation/top5"}
# Of all samples since the evaluation before, not of one step as train/loss is.
EVALUATION_TAGS |= {f"train_{name}": f"train_mean/{name}" for name in ("loss", "top1", "top5")}
VERSION = "brain.Event:2"  # from it on, a reader heeds where a job has begun anew


class TensorBoardFile(Listener):
    """Writes one event file for a job.

    The classes of TensorBoard are used that need no TensorFlow: its ready-made writer would load that where it is
    installed, seconds and gigabytes for a run in PyTorch.

    Args:
        folder: of the run's event files, made if it is not there.
        from_step: finished steps; readers forget what earlier files have of later ones.
    """

    def __init__(self, folder: Path, from_step: int):
        folder.mkdir(exist_ok=True)
        self._file = AppendedFile(folder / _name(folder))
        self._records = RecordWriter(self._file)
        self._write(Event(file_version=VERSION))
        self._write(Event(step=from_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def step(self, values: dict[str, Any]) -> None:
        self._scalars(STEP_TAGS, values)

    def evaluation(self, values: dict[str, Any]) -> None:
        self._scalars(EVALUATION_TAGS, values)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _scalars(self, tags: dict[str, str], values: dict[str, Any]) -> None:
        found = [Summary.Value(tag=tag, simple_value=values[key]) for key, tag in tags.items() if key in values]
        self._write(Event(step=values["step"], summary=Summary(value=found)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _name(folder: Path) -> str:
    """Readers take the files of a folder in the order of their names, which begin with the time: whatever clocks say,
    a later job's comes later."""
    names = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    number = max([int(time.time()), *(int(name) + 1 for name in names if name.isdecimal())])
    return f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}"
