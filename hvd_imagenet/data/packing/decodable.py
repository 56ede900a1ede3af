"""Whether images can be decoded, by the decoder that training uses, and what it says of those that cannot."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def

from hvd_imagenet.data.packing.images import Examined

_NOISE = re.compile(r"\x1b\[[\d;]*m|\[\w+:\d+@[\d.]+\] global \S+ \S+ ")  # colours; OpenCV's time and place


class Finding(NamedTuple):
    """What the decoder makes of an image: why it cannot decode it (None: it can), and what it warns of."""

    reason: str | None
    warning: str | None


def findings(images: Sequence[Examined]) -> list[Finding]:
    """What the decoder makes of each image; all of them are decoded whole, since training cuts parts from anywhere.

    One image at a time: a pipeline that fails on one of several while others are still in the works takes the process
    with it when it is closed, and does not tell which of them it was.
    """
    found = []
    pipeline = None
    with _caught_stderr() as said:
        for image in images:
            pipeline = pipeline or _decoder()
            try:
                size = _decoded_size(pipeline, image.data)
            except RuntimeError as error:
                found.append(Finding(f"cannot be decoded: {said() or _cause(str(error))}", None))
                pipeline = None  # it does not work any more
                continue
            damaged = size != (image.height, image.width)
            reason = "damaged: decodes to another size than its header says" if damaged else None
            found.append(Finding(reason, None if reason else said()))
    return found


def _decoder() -> Pipeline:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        return fn.decoders.image(fn.external_source(name="encoded"), adjust_orientation=False)

    return graph()


def _decoded_size(pipeline: Pipeline, data: bytes) -> tuple[int, int]:
    """Height and width of the decoded image; RuntimeError: it cannot be decoded."""
    pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8)])
    (images,) = pipeline.run()
    return tuple(images[0].shape()[:2])


def _cause(error: str) -> str:
    """The first line of the cause in DALI's long message."""
    cause = error.partition("encountered:")[2] or error
    return cause.strip().partition("\n")[0].strip(" :")


@contextmanager
def _caught_stderr() -> Iterator[Callable[[], str | None]]:
    """Keep from the screen what libraries write to the error output of this process; yields what tells the latest."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> str | None:
            """The last line since it was asked before, without colours, times and the name of who wrote it."""
            written = os.pread(file.fileno(), 2**16, 0).decode(errors="replace")
            os.truncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            lines = [_NOISE.sub("", line) for line in written.splitlines() if line.strip()]
            return lines[-1].rpartition(" - ")[2].removeprefix("Corrupt JPEG data: ").strip() if lines else None

        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
