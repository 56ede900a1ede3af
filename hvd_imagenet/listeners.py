"""Who hears what a run tells of itself."""

from __future__ import annotations

from hvd_imagenet.metrics.console import RunConsole
from hvd_imagenet.metrics.journal import Listener
from hvd_imagenet.metrics.lines import MetricsLines
from hvd_imagenet.metrics.words import LogFile
from hvd_imagenet.startup import Start


def listeners(start: Start) -> list[Listener]:
    """Those that the settings ask for, on rank 0.

    Raises:
        OSError: a file cannot be written.
    """
    run, progress = start.run, start.progress
    found: list[Listener] = [MetricsLines(run.metrics, progress.step, not progress.evaluation_due)]
    if start.config.log.tensorboard:
        from hvd_imagenet.metrics.tensorboard import TensorBoardFile  # a second, for those who want it

        found.append(TensorBoardFile(run.tensorboard, progress.step))
    if start.config.log.mllog:
        from hvd_imagenet.metrics.mllog import MLPerfLog

        found.append(
            MLPerfLog(
                run.mllog,
                start.config,
                start.policy,
                start.backend.size,
                len(start.val_set),
                progress.step,
                not progress.evaluation_due,
            )
        )
    return [*found, LogFile(run.log, start.policy), RunConsole(start.policy)]
