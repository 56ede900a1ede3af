"""Settings by their dotted keys."""

from __future__ import annotations

from typing import Any

PLACES = ("data.path", "data.cache_dir")  # settings that may differ from host to host
TABLES = ("batch.global_size", "model.kwargs")  # settings that are tables, not groups of settings


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found = {}
    for key, value in settings.items():
        nested = isinstance(value, dict) and f"{prefix}{key}" not in TABLES
        found.update(flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return found
