"""The parser of commands that take options of their own, and no settings."""

from __future__ import annotations

import argparse

from hvd_imagenet.errors import SettingsError


class Parser(argparse.ArgumentParser):
    """Usage errors end as all others do."""

    def error(self, message: str):
        raise SettingsError(f"{message}; see {self.prog} --help")
