"""What can end a run, and the exit status of each (0 is a run that is done)."""

from __future__ import annotations


class RunError(Exception):
    """An end that a person can do something about: the message names the thing and the remedy, in one line.

    Attributes:
        exit_code: of the process.
        everywhere: all workers raise it, so that the first one can say it for all.
    """

    exit_code = 1
    everywhere = False


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


class CheckpointError(RunError):
    """No usable checkpoint."""

    exit_code = 6
