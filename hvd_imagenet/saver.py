"""Saves a run on its way: rank 0 writes, all workers know what has been written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hvd_imagenet import checkpoint
from hvd_imagenet.checkpoint import Progress
from hvd_imagenet.errors import CheckpointError, DivergedError
from hvd_imagenet.faults.divergence import REMEDY
from hvd_imagenet.faults.together import together
from hvd_imagenet.metrics.journal import Journal
from hvd_imagenet.startup import Start


class Saver:
    """The checkpoints of a run.

    Attributes:
        saved_step: the step of the newest, if the run goes on from it or has written it; None: there is none.
    """

    def __init__(self, start: Start, journal: Journal):
        self._folder = start.run.checkpoints
        self._rules = start.config.checkpoint
        self._settings = start.settings
        self._backend = start.backend
        self._job = start.job
        self._journal = journal
        self.saved_step = start.saved_step

    def save(self, progress: Progress, must: bool) -> None:
        """Save the run as it is. A checkpoint that is still to be evaluated replaces no older one until it is.

        Args:
            must: end the run if that fails, whatever the settings say.

        Raises:
            CheckpointError: it failed, and the run is to end.
            DivergedError: the weights are not finite; nothing is saved.
        """
        if self._on_rank_0(must, lambda: self._save(progress)):
            self.saved_step = progress.step

    def evaluated(self, progress: Progress) -> None:
        """The weights of this step have been evaluated: note it in their checkpoint if they are saved."""
        if self.saved_step == progress.step:
            self._on_rank_0(False, lambda: self._note(progress))

    def discard(self, step: int) -> None:
        """The weights of this step are no good: remove their checkpoint if they are saved."""
        if self._backend.rank == 0:
            checkpoint.remove(self._folder, step)

    def _on_rank_0(self, must: bool, write: Callable[[], None]) -> bool:
        """Whether it could be written, on all workers."""
        try:
            with together(self._backend), self._job.writing:
                if self._backend.rank == 0:
                    write()
        except CheckpointError as error:
            if must or self._rules.on_failure == "stop":
                raise
            self._journal.say(f"warning: {error}; going on, the checkpoints before stay")
            return False
        return True

    def _save(self, progress: Progress) -> None:
        state = self._backend.state()
        infinite = [name for name, array in state.model.items() if not np.isfinite(array).all()]
        if infinite:
            raise DivergedError(f"{infinite[0]} is not finite after step {progress.step}; {REMEDY}")
        self._journal.flush()  # a resume from this checkpoint will not tell it again
        checkpoint.save(self._folder, state, progress, self._settings)
        if not progress.evaluation_due:
            self._prune(progress)

    def _note(self, progress: Progress) -> None:
        self._journal.flush()  # nor will it tell this evaluation again
        checkpoint.note(self._folder, progress)
        self._prune(progress)

    def _prune(self, progress: Progress) -> None:
        checkpoint.prune(self._folder, self._rules.keep, progress.evaluations)
