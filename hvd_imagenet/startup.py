"""What comes before the first step: every check, on all workers, and the state that a run starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvd_imagenet import checkpoint
from hvd_imagenet.backend import Backend, cores_per_worker
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.config import Config
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.errors import CheckpointError, DataError, RunError, SettingsError
from hvd_imagenet.policy import LargeBatchPolicy
from hvd_imagenet.run_directory import RunDirectory


@contextmanager
def together(backend: Backend) -> Iterator[None]:
    """What one worker finds wrong inside, all raise: nobody goes on to wait for a worker that has given up."""
    found = None
    try:
        yield
    except RunError as error:
        found = error
    for rank, error in enumerate(backend.gather(found)):
        if error is not None:
            raise error if rank == 0 else type(error)(f"worker {rank}: {error}")


def require_data(config: Config) -> None:
    """Raise SettingsError unless the settings say where the data is."""
    if config.data.path is None:
        raise SettingsError("data.path: null; give the folder of the data set: --data.path FOLDER")


def open_everywhere(config: Config, split: str, backend: Backend) -> Store:
    """Open a split on all workers; on each host one goes first, so that a plain folder is indexed once."""
    store = None
    for turn in (backend.local_rank == 0, backend.local_rank != 0):
        with together(backend):
            if turn:
                store = open_store(config.data.path, split)
    return store


def check_fit(config: Config, policy: LargeBatchPolicy, train_set: Store, workers: int) -> None:
    """Hold the settings against the data and the number of workers.

    Raises:
        SettingsError, DataError: they do not fit.
    """
    samples = config.data.train_samples
    if samples is not None and samples != len(train_set):
        raise DataError(
            f"{train_set.path}: has {len(train_set)} training images, but data.train_samples is {samples}; "
            "is it the right data set? Otherwise set data.train_samples to null"
        )
    if config.model.classes != len(train_set.classes):
        raise DataError(
            f"{train_set.path}: has {len(train_set.classes)} classes, but model.classes is {config.model.classes}; "
            f"set model.classes to {len(train_set.classes)}, or is it another data set?"
        )
    if policy.smallest_step() < workers:
        size = policy.smallest_step() * config.batch.micro_size
        raise SettingsError(
            f"batch.global_size: {size}; is {policy.smallest_step()} micro-batches of {config.batch.micro_size} for "
            f"{workers} workers; start at most {policy.smallest_step()} workers or raise batch.global_size to "
            f"{workers * config.batch.micro_size}"
        )


def restore(run: RunDirectory, backend: Backend) -> Progress:
    """Load the newest checkpoint, read by rank 0, into every worker."""
    progress = None
    with together(backend):
        if backend.rank == 0:
            state, progress = checkpoint.load(run.checkpoints)
            try:
                backend.load_state(state)
            except ValueError as error:
                raise CheckpointError(f"{run.checkpoints}: of another network ({error})") from None
    backend.broadcast()
    return backend.gather(progress)[0]


def decoding(config: Config, backend: Backend) -> Decoding:
    """What becomes of an image on this worker."""
    data = config.data
    return Decoding(
        image_size=data.image_size,
        mean=tuple(data.mean),
        std=tuple(data.std),
        resize_shorter=data.resize_shorter(),
        padded=data.augment == "shift_crop",
        threads=data.threads or cores_per_worker(backend.local_size),
        device_id=backend.device_id,
    )
