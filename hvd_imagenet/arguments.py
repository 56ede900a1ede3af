"""What commands share in reading their arguments: their parser, and the folder of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from hvd_imagenet.errors import SettingsError


class Parser(argparse.ArgumentParser):
    """Of commands that take options of their own, and no settings: usage errors end as all others do."""

    def error(self, message: str):
        raise SettingsError(f"{message}; see {self.prog} --help")


def with_settings_of_run(arguments: list[str]) -> list[str]:
    """The arguments, after the settings of the run that ``--run`` names, if it is one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run", nargs="?")
    run = parser.parse_known_args(arguments)[0].run
    settings = Path(run or "") / "config.yaml"
    return ["--config", str(settings), *arguments] if run and settings.exists() else arguments


def require_name(run: str | None) -> None:
    """Refuse a folder without a name, as where a script's variable is unset.

    Raises:
        SettingsError: it has none.
    """
    if run == "":
        raise SettingsError("--run: is empty; give the name of a folder")


def require_run(run: str | None) -> None:
    """Refuse what is not the folder of a run.

    Raises:
        SettingsError: it is not.
    """
    require_name(run)
    if run is None:
        raise SettingsError("--run: missing; give the folder of a run")
    if not (Path(run) / "config.yaml").exists():
        raise SettingsError(f"--run: {run}; holds no run (no config.yaml)")
