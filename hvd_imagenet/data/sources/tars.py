"""What is in a tar file, found without unpacking it; nothing in it is trusted."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from hvd_imagenet.errors import DataError

_BLOCK = 512
_PADDING = 20 * _BLOCK + _BLOCK  # zeros at most after the last member, in records of tar's usual blocking factor


class Member(NamedTuple):
    """A file in a tar: its name there, and where its bytes are in the tar's own file."""

    name: str
    offset: int
    length: int


def members(file: BinaryIO, name: str, start: int = 0, length: int | None = None) -> list[Member]:
    """The files of an uncompressed tar, in their order.

    Args:
        name: of the tar, for messages.
        start, length: of a tar that is a part of a file: where it is.

    Raises:
        DataError: not an uncompressed tar, cut short, or with members that are links, climb out of the folder that it
            would be unpacked into, or have the same name.
    """
    end = start + length if length is not None else file.seek(0, 2)
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found = list(_checked(tar, name, end))
            last = tar.offset
    except (tarfile.TarError, EOFError, ValueError, MemoryError, RecursionError) as error:
        kind = "cut short" if "end of data" in str(error) else f"not an uncompressed tar file ({error})"
        raise DataError(f"{name}: {kind}; fetch it again, or unpack it if it is compressed") from None
    _require_end(file, name, start, last, end)
    names = set()
    for member in found:
        if member.name in names:
            raise DataError(f"{name}: holds two files named {member.name}; fetch it again")
        names.add(member.name)
    return found


def _require_end(file: BinaryIO, name: str, start: int, last: int, end: int) -> None:
    """Raise DataError unless a tar has its end where its last member ends, and nothing but padding after it.

    tarfile takes damage to a header for the end, and zeros anyway: those of a download that was given its space
    beforehand and has not come to its end, or those between two tars, one written after the other.
    """
    file.seek(last)
    if last + _BLOCK > end or any(file.read(_BLOCK)):
        raise DataError(f"{name}: cut short or damaged at byte {last - start:,}; fetch it again")
    if end - last > _PADDING or any(file.read(end - last - _BLOCK)):
        raise DataError(
            f"{name}: ends at byte {last - start:,} of {end - start:,}; fetch it again, or if it is whole (of larger "
            "records, or two tars in one file), write it again with tar as it is by default"
        )


def _checked(tar: tarfile.TarFile, name: str, end: int) -> Iterator[Member]:
    for member in tar:
        if not 0 <= member.size <= end - member.offset_data:  # with a negative one, tarfile would go round in circles
            raise DataError(f"{name}: cut short or damaged at {member.name}; fetch it again")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{name}: {member.name} would be unpacked outside of its folder; do not trust this archive")
        if member.issym() or member.islnk():
            raise DataError(f"{name}: {member.name} is a link to {member.linkname}; pack the file itself")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise DataError(f"{name}: {member.name} is no plain file; remove it")
        yield Member(str(path), member.offset_data, member.size)


def open_tar(path: Path) -> BinaryIO:
    """Open a tar's file to read.

    Raises:
        DataError: it cannot be.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
