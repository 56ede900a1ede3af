"""Errors that one worker finds, and all raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvd_imagenet.backend import Backend
from hvd_imagenet.errors import RunError


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
            shared = error if rank == 0 else type(error)(f"worker {rank}: {error}")
            shared.everywhere, shared.rank = True, rank
            raise shared
