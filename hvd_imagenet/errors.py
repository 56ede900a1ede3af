"""What can end a run, the exit status of each (0 is a run that is done), and how it is said in one line."""

from __future__ import annotations


class RunError(Exception):
    """An end that a person can do something about: the message names the thing and the remedy, in one line.

    Attributes:
        exit_code: of the process.
        everywhere: all workers raise it, so that the first one can say it for all.
        rank: of the worker that it began with.
        settled: all workers have met since, and are done with all that they had to do.
    """

    exit_code = 1
    everywhere = False
    rank = 0
    settled = False


class SettingsError(RunError):
    """Bad settings or usage."""

    exit_code = 2
    everywhere = True  # all workers are started with the same


class DataError(RunError):
    """The data set is missing, damaged, or not the one that the settings describe."""

    exit_code = 3


class DivergedError(RunError):
    """The loss is not finite."""

    exit_code = 4
    everywhere = True  # known from sums over all workers


class OutOfStepError(RunError):
    """The workers' weights are not the same any more."""

    exit_code = 5
    everywhere = True  # each is told what the others have


class CheckpointError(RunError):
    """No usable checkpoint, or one that cannot be written."""

    exit_code = 6


class StoppedError(RunError):
    """Asked to stop, with everything saved: run again to go on."""

    exit_code = 75
    everywhere = True  # agreed on by all workers


class LostContactError(RunError):
    """An exchange with the other workers failed, because one of them is gone; which one, this worker cannot tell."""

    exit_code = 1


def in_one_line(message: str) -> str:
    """A message whose names of files cannot break the line, nor the terminal."""
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


class StudyError(RunError):
    """Runs of a study have failed; the others are done."""

    exit_code = 1


class UnfitError(RunError):
    """The doctor has found what would break a job; its report has said so."""

    exit_code = 1
    everywhere = True
    settled = True
