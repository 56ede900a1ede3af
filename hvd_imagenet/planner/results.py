"""Reading numbers out of JSON that somebody else has written: what is missing, or makes no sense, is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hvd_imagenet.errors import DataError, SettingsError
from hvd_imagenet.planner.units import sensible


def load(name: str) -> Any:
    """What a JSON file holds.

    Raises:
        SettingsError: it cannot be read; DataError: it is no JSON.
    """
    try:
        return json.loads(Path(name).read_text())
    except FileNotFoundError:
        raise SettingsError(f"--bench: {name}; no such file; give what bench --json wrote, or a run's folder") from None
    except OSError as error:
        raise SettingsError(f"--bench: {name}; cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise DataError(f"--bench: {name}; is no JSON, or damaged; give what bench --json wrote") from None


class Values:
    """A JSON object's values, by the keys that lead to them.

    Args:
        source: the file or folder, for messages.
    """

    def __init__(self, source: str, values: Any):
        self.source, self._values = source, values

    def has(self, *keys: str) -> bool:
        return self._find(keys) is not None

    def number(self, *keys: str) -> float:
        """A number above 0, or the median of a figure.

        Raises:
            DataError: there is none.
        """
        value = self._find(keys)
        value = value.get("median") if isinstance(value, dict) else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not sensible(value):
            raise self._wrong(keys, "a number above 0")
        return float(value)

    def count(self, *keys: str, otherwise: int | None = None) -> int:
        """A whole number above 0.

        Args:
            otherwise: what a missing one stands for; None: it must be there.

        Raises:
            DataError: there is none.
        """
        value = otherwise if otherwise is not None and not self.has(*keys) else self._find(keys)
        if isinstance(value, bool) or not isinstance(value, int) or not sensible(value):
            raise self._wrong(keys, "a whole number above 0")
        return value

    def text(self, *keys: str) -> str:
        """A text, in small letters; empty where there is none."""
        value = self._find(keys)
        return value.lower() if isinstance(value, str) else ""

    def list(self, *keys: str) -> list[Values]:
        """The objects of a list that is not empty.

        Raises:
            DataError: there is none.
        """
        value = self._find(keys)
        if not isinstance(value, list) or not value:
            raise self._wrong(keys, "a list")
        return [Values(self.source, one) for one in value]

    def _find(self, keys: tuple[str, ...]) -> Any:
        found = self._values
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def _wrong(self, keys: tuple[str, ...], wanted: str) -> DataError:
        found = self._find(keys)
        is_there = "is missing" if found is None else f"is {str(found)[:60]!r}"
        return DataError(f"--bench: {self.source}; {'.'.join(keys)} {is_there}; it must be {wanted}")
