"""The folder of a run: its settings, metrics, log, checkpoints and result."""

from __future__ import annotations

import json
from pathlib import Path

from hvd_imagenet import settings
from hvd_imagenet.config import Config
from hvd_imagenet.durable import write_whole
from hvd_imagenet.errors import CheckpointError, SettingsError


class RunDirectory:
    """Paths and small files of one run.

    Args:
        path: the folder; made by `write_config`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.tensorboard = path / "tensorboard"
        self.mllog = path / "mllog.txt"
        self.checkpoints = path / "checkpoints"
        self.status = path / "status.json"
        self.lock = path / "lock"
        self.stop = path / "STOP"

    def holds_run(self, resume: str) -> bool:
        """Whether there is a run in this folder to go on with; nothing is written.

        Args:
            resume: no: start a run; always: go on with the one that is there; auto: as it is.

        Raises:
            SettingsError: a run cannot start here, since the folder holds something already.
            CheckpointError: there is no run to go on with.
        """
        if resume != "no" and self.config.exists():
            return True
        if resume == "always":
            raise CheckpointError(
                f"--run: {self.path}; holds no run to resume; is that its name? Begin one without --resume"
            )
        if not self.path.exists():
            return False
        leftovers = {self.lock, self.stop, self.config.with_name(f"{self.config.name}.partial")}
        if not self.path.is_dir() or set(self.path.iterdir()) - leftovers:
            remedy = "add --resume to go on with it, or name another folder with --run"
            if not self.config.exists():
                remedy = "name another folder with --run"
            raise SettingsError(f"--run: {self.path}; the folder is in use; {remedy}")

    def write_config(self, config: Config) -> None:
        """Make the folder if it is not there, and write the run's settings.

        Raises:
            SettingsError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.config, settings.dump(config).encode())  # first: with it, a run can be gone on with
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise SettingsError(f"--run: {self.path}; cannot be written ({error.strerror}); name another") from None

    def write_result(self, result: dict) -> None:
        """Write ``result.json``, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        path = self.path / "result.json"
        try:
            write_whole(path, _json(result))
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be written ({error.strerror}); free some space, and --resume"
            ) from None

    def write_evaluation(self, evaluation: dict) -> None:
        """Write ``evaluation.json``, whole or not at all.

        Raises:
            SettingsError: it cannot be written.
        """
        path = self.path / "evaluation.json"
        try:
            write_whole(path, _json(evaluation))
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be written ({error.strerror}); free some space, or evaluate a copy of the run"
            ) from None


def _json(table: dict) -> bytes:
    return (json.dumps(table, indent=1) + "\n").encode()
