"""One worker's part in ``hvd-imagenet evaluate``: a checkpoint of a run on a split, with all checks before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hvd_imagenet import backend as backends
from hvd_imagenet import checkpoint
from hvd_imagenet.backend import Backend, State
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.config import Config
from hvd_imagenet.data.remote.cache import require_room
from hvd_imagenet.data.requests import FirstRequests
from hvd_imagenet.data.store import Store
from hvd_imagenet.errors import SettingsError, StoppedError
from hvd_imagenet.evaluation.classes import Answers, Classes
from hvd_imagenet.evaluation.outcome import Outcome
from hvd_imagenet.evaluation.totals import evaluate_all
from hvd_imagenet.faults.job import Job
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.faults.together import together
from hvd_imagenet.inputs import (
    caching,
    check_classes,
    check_memory,
    evaluation_room,
    norm_images,
    open_everywhere,
    require_data,
    sample_stream,
)
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.startup import read_checkpoint, take_over
from hvd_imagenet.stream import share


def evaluate(
    config: Config, run: RunDirectory, choice: str, split: str, show: Callable[[Outcome], None]
) -> Outcome | None:
    """Evaluate a checkpoint of a run on a split, and write the run's ``evaluation.json``.

    The run may be going on: nothing else of it is touched.

    Args:
        choice: last: the newest usable one; best: the one that did best in the run's evaluations; or its folder.
        split: val or train.
        show: called with what was found where that cannot be written, before the error.

    Returns:
        What was found, on rank 0; None on all others.

    Raises:
        RunError: on all workers the same.
    """
    with StopRequests() as stop:
        backend = backends.load(config.framework)(config)
        with Job(backend, run, config.faults, stop) as job:
            with together(backend):
                require_data(config)
                if backend.rank == 0:
                    _require_choice(choice, run)
            images, first = _open(config, split, backend)
            state, progress = _read(choice, run, backend)
            take_over(state, backend)
            job.expect_progress()
            start, end = share(len(images), backend.rank, backend.size)
            answers = Answers(images.labels[start:end], config.model.classes)
            totals = evaluate_all(config, backend, images, stop, first, answers.add)
            if totals is None:
                raise StoppedError("stopped, as asked; an evaluation keeps nothing: run it again")
            classes = Classes(images.classes, backend.gather(answers.counts()))
            found = Outcome(choice, progress.step, split, config.evaluate.precise_bn, totals, classes)
            with together(backend), job.writing:
                if backend.rank == 0:
                    try:
                        run.write_evaluation(found.table())
                    except SettingsError:
                        show(found)
                        raise
            return found if backend.rank == 0 else None


def _require_choice(choice: str, run: RunDirectory) -> None:
    """Raise SettingsError or CheckpointError unless there may be such a checkpoint."""
    if choice in ("last", "best"):
        checkpoint.require_any(run.checkpoints)
    elif os.sep not in choice and not os.path.isdir(choice):
        raise SettingsError(f"--checkpoint: {choice or 'is empty'}; give last, best, or the folder of a checkpoint")


def _open(config: Config, split: str, backend: Backend) -> tuple[Store, FirstRequests | None]:
    """The images of a split, and what batch normalisation's statistics are recomputed from; with room for both."""
    images = open_everywhere(config, split, backend)
    precise = config.evaluate.precise_bn is not None
    train_set = open_everywhere(config, "train", backend) if precise and split != "train" else images
    first, remedy = None, "start fewer workers on a host"
    with together(backend):
        check_classes(config, images)
        room = evaluation_room(images, backend.local_size)
        if precise:
            stream = sample_stream(config, train_set)
            check_memory(config, stream, backend.local_size)
            first = norm_images(config, train_set, stream, backend)
            room, remedy = room + train_set.room(len(first.shards)), f"{remedy}, or lower evaluate.precise_bn"
        require_room(caching(config), room, f"evaluating {images.path}", remedy)
    return images, first


def _read(choice: str, run: RunDirectory, backend: Backend) -> tuple[State | None, Progress]:
    """The state of a checkpoint, on rank 0 alone, and for all, where the run was."""
    if choice == "last":
        return read_checkpoint(run, backend, going_on=False)[:2]
    state = progress = None
    with together(backend):
        if backend.rank == 0:
            path = checkpoint.best(run.checkpoints) if choice == "best" else Path(choice)
            state, progress, _ = checkpoint.load_one(path)
    return state, backend.gather(progress)[0]
