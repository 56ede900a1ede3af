"""Evaluation: every image of the validation set once, shared out among the workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hvd_imagenet import backend as backends
from hvd_imagenet import checkpoint
from hvd_imagenet.backend import Backend, Batch
from hvd_imagenet.config import Config
from hvd_imagenet.data.loader import evaluation_batches
from hvd_imagenet.data.remote.cache import require_room
from hvd_imagenet.data.requests import Worker
from hvd_imagenet.data.store import Store
from hvd_imagenet.errors import StoppedError
from hvd_imagenet.faults.job import Job
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.faults.together import together
from hvd_imagenet.inputs import (
    EVALUATION_BATCH,
    caching,
    check_classes,
    decoding,
    evaluation_room,
    open_everywhere,
    require_data,
)
from hvd_imagenet.run_directory import RunDirectory
from hvd_imagenet.startup import read_checkpoint, take_over
from hvd_imagenet.totals import Totals


def evaluate(config: Config, run: RunDirectory) -> tuple[int, Totals]:
    """Evaluate a run's newest usable checkpoint on the validation set.

    Returns:
        The checkpoint's step, and the totals.

    Raises:
        RunError: on all workers the same.
    """
    with StopRequests() as stop:
        backend = backends.load(config.framework)(config)
        with Job(backend, run, config.faults, stop) as job:
            with together(backend):
                require_data(config)
            val_set = open_everywhere(config, "val", backend)
            with together(backend):
                check_classes(config, val_set)
                room = evaluation_room(val_set, backend.local_size)
                require_room(caching(config), room, f"evaluating {val_set.path}", "start fewer workers on a host")
                if backend.rank == 0:
                    checkpoint.require_any(run.checkpoints)
            state, progress, _ = read_checkpoint(run, backend, going_on=False)
            take_over(state, backend)
            job.expect_progress()
            totals = evaluate_all(config, backend, val_set, stop)
            if totals is None:
                raise StoppedError("stopped, as asked; an evaluation keeps nothing: run it again")
            return progress.step, totals


def evaluate_all(config: Config, backend: Backend, val_set: Store, stop: StopRequests) -> Totals | None:
    """Totals over the validation set; None if a worker was asked to stop on the way."""
    worker = Worker(backend.rank, backend.size)
    with evaluation_batches(val_set, EVALUATION_BATCH, worker, decoding(config, backend)) as batches:
        totals = backend.evaluate(_until_stopped(batches, stop))
    if totals.count == len(val_set):
        return totals
    if not any(backend.gather(stop.asked)):
        raise RuntimeError(f"evaluated {totals.count} images of {len(val_set)}")
    return None


def _until_stopped(batches: Iterable[Batch], stop: StopRequests) -> Iterator[Batch]:
    """The batches, as long as this worker is not asked to stop: all workers will find that some are missing."""
    for batch in batches:
        if stop.asked:
            return
        yield batch
