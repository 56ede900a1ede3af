"""Whether images can be decoded, by the decoder that training uses, and what it says of those that cannot."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from nvidia.dali import fn, pipeline_def

from hvd_imagenet.data.packing.images import Examined

BATCH = 64  # images decoded at once,
BATCH_PIXELS = 2**25  # or fewer, of so many pixels together: 100 MB


class Finding(NamedTuple):
    """What the decoder makes of an image: why it cannot decode it (None: it can), and what it warns of."""

    reason: str | None
    warning: str | None


def findings(images: Sequence[Examined]) -> Iterator[Finding]:
    """What the decoder makes of each image; all of them are decoded whole, since training cuts parts from anywhere."""
    for batch in _batches(images):
        errors, warnings = _decode(batch)
        if not errors and not warnings:
            yield from (Finding(None, None) for _ in batch)
            continue
        for image in batch:  # the decoder does not say which it was
            errors, warnings = _decode([image])
            yield Finding(errors, None if errors else warnings)


def _batches(images: Sequence[Examined]) -> Iterator[list[Examined]]:
    batch, pixels = [], 0
    for image in images:
        size = image.height * image.width
        if batch and (len(batch) == BATCH or pixels + size > BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(image)
        pixels += size
    if batch:
        yield batch


def _decode(images: list[Examined]) -> tuple[str | None, str | None]:
    """Why these images cannot be decoded, if so, and what the decoder's libraries wrote while they tried."""
    encoded = [np.frombuffer(image.data, np.uint8) for image in images]
    with _caught_stderr() as written:
        try:
            decoded = _sizes(encoded)
            failure = None
        except RuntimeError as error:
            failure = str(error)
    said = _said(written)
    if failure is not None:
        return f"cannot be decoded: {said or _first_line(failure)}", None
    if decoded != [(image.height, image.width) for image in images]:
        return "damaged: decodes to another size than its header says", None
    return None, said


def _sizes(encoded: list[np.ndarray]) -> list[tuple[int, int]]:
    """Heights and widths of images when decoded, on one thread of the CPU; RuntimeError: one of them cannot be."""

    @pipeline_def(batch_size=len(encoded), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        return fn.decoders.image(fn.external_source(source=[encoded], batch=True), adjust_orientation=False)

    (decoded,) = graph().run()
    return [tuple(decoded[number].shape()[:2]) for number in range(len(encoded))]


def _first_line(error: str) -> str:
    """The cause in DALI's long message."""
    cause = error.partition("encountered:")[2] or error
    return cause.strip().partition("\n")[0].strip(" :")


def _said(written: list[str]) -> str | None:
    """The last thing that was written, without colours and the name of who wrote it."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in "".join(written).splitlines() if line.strip()]
    return lines[-1].rpartition(" - ")[2].removeprefix("Corrupt JPEG data: ").strip() if lines else None


@contextmanager
def _caught_stderr() -> Iterator[list[str]]:
    """What libraries write to the error output of this process, kept from the screen; filled in at the end."""
    written: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield written
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            written.append(file.read().decode(errors="replace"))
