"""Files that a command draws its picture into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hvd_imagenet.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf")


def require_picture(path: Path) -> None:
    """Raise SettingsError unless a file's ending is that of a picture."""
    if path.suffix.lower() not in KINDS:
        raise SettingsError(f"--plot: {path}; give a file that ends in {', '.join(KINDS)}")


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure, as its file's ending says.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise SettingsError(f"--plot: {path}; cannot be written ({error.strerror})") from None
