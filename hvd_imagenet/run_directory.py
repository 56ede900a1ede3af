"""The folder of a run: its settings, metrics, log, checkpoints and result."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hvd_imagenet import settings
from hvd_imagenet.config import Config
from hvd_imagenet.errors import SettingsError


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
        self.checkpoints = path / "checkpoints"

    def check_free(self, resume: bool) -> None:
        """Look whether a run can start, or go on, in this folder; nothing is written.

        Raises:
            SettingsError: it holds something already.
        """
        if not resume and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
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
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            _replace(self.config, settings.dump(config))
        except OSError as error:
            raise SettingsError(f"--run: {self.path}; cannot be written ({error.strerror}); name another") from None

    def write_result(self, result: dict) -> None:
        """Write ``result.json``, whole or not at all."""
        _replace(self.path / "result.json", json.dumps(result, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
