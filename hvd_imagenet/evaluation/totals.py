"""Sums over a split: every image of it once, shared out among the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from hvd_imagenet.backend import Backend, Batch, NormBatches
from hvd_imagenet.config import Config
from hvd_imagenet.data.ahead import Ahead
from hvd_imagenet.data.loader import evaluation_batches, first_batches
from hvd_imagenet.data.requests import FirstRequests, Worker
from hvd_imagenet.data.store import Store
from hvd_imagenet.faults.stopping import StopRequests
from hvd_imagenet.inputs import EVALUATION_BATCH, decoding
from hvd_imagenet.totals import Totals


def evaluate_all(
    config: Config,
    backend: Backend,
    store: Store,
    stop: StopRequests,
    first: FirstRequests | None,
    answered: Callable[[np.ndarray], None] | None = None,
) -> Totals | None:
    """Totals over a split; None if a worker was asked to stop on the way.

    Args:
        first: what batch normalisation's statistics are recomputed from; None: the running ones are used.
        answered: called with the answers to each batch of this worker, see `Backend.evaluate`: those to the split's
            images from ``share(len(store), rank, size)`` on.
    """
    worker = Worker(backend.rank, backend.size)

    def images() -> Ahead[Batch]:
        return evaluation_batches(store, EVALUATION_BATCH, worker, decoding(config, backend))

    with closing(_until_stopped(images, stop)) as batches:
        if first is None:
            totals = backend.evaluate(batches, None, answered)
        else:
            with closing(_until_stopped(lambda: first_batches(first), stop)) as of_norm:
                totals = backend.evaluate(batches, NormBatches(first.micro_batches, of_norm), answered)
    if totals.count == len(store):
        return totals
    if not any(backend.gather(stop.asked)):
        raise RuntimeError(f"evaluated {totals.count} images of {len(store)}")
    return None


def _until_stopped(begin: Callable[[], Ahead[Batch]], stop: StopRequests) -> Iterator[Batch]:
    """Batches that are begun with the first one that is asked for, as long as this worker is not asked to stop: all
    workers will find that some are missing."""
    with begin() as batches:
        for batch in batches:
            if stop.asked:
                return
            yield batch
