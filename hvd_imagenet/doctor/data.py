"""A data set as a job would open it: both splits, a checksum to compare, and how fast it is read in random order."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from hvd_imagenet.data import description
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.doctor.findings import Found, ok, warning
from hvd_imagenet.errors import RunError
from hvd_imagenet.stream import BlockedOrder, GlobalOrder

CHECK = "data"
READ_SECONDS = 3.0
BATCH = 32
LARGEST_SHUFFLE, WINDOW = 2**30, 16  # bytes; shards: a set too large for a global shuffle is read in a blocked one


def index(launch: dict) -> Found:
    """Open the set, so that not all workers of a host index a plain folder; what is wrong with it, `look` says."""
    with suppress(RunError):
        for split in ("train", "val"):
            open_store(launch["data"], split)
    return Found()


def look(launch: dict) -> Found:
    """Open both splits and read from the training set, each worker its own part.

    Raises:
        RunError: as ``open_store`` and ``Store.read``.
    """
    stores = {split: open_store(launch["data"], split) for split in ("train", "val")}
    sizes = ", ".join(f"{len(store):,} in {split}" for split, store in stores.items())
    findings = [ok(CHECK, f"{launch['data']}: {len(stores['train'].classes):,} classes, {sizes}")]
    images, read, seconds = read_speed(stores["train"], launch["rank"] / launch["size"])
    if min(map(len, stores.values())) < BATCH:
        findings.append(warning(CHECK, f"only {sizes}", "is it the right data set?"))
    contents = {split: _checksum(store, split) for split, store in stores.items()}
    speed = {"images_per_second": images / seconds, "bytes_per_second": read / seconds}
    return Found(findings, {"contents": contents, "reading": speed})


def _checksum(store: Store, split: str) -> str:
    """Of a split's index and, where a packed set of this host tells them, of its files."""
    notes = Path(store.path) / description.NAME
    if not notes.is_file():  # a plain folder, or at a URL
        return store.contents()
    shards = description.parse(notes.read_bytes(), str(notes)).splits[split].shards
    files = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
    return f"{store.contents()}-{files[:12]}"


def read_speed(store: Store, start: float) -> tuple[int, int, float]:
    """Images and bytes that were read in how many seconds; the first batch, which opens what is to be opened, apart.

    Args:
        start: where in the epoch, as a fraction.
    """
    order = GlobalOrder(len(store))
    if order.peak_bytes > LARGEST_SHUFFLE:
        order = BlockedOrder(store.shard_samples, WINDOW)
    first = int(start * len(store))
    images = read = 0
    begun = time.monotonic()
    for number in count():
        place = (first + number * BATCH) % len(store)
        batch = store.read(order.numbers(0, 0, place, min(place + BATCH, len(store))))
        if number == 0:
            begun = time.monotonic()
            continue
        images, read = images + len(batch), read + sum(map(len, batch))
        if time.monotonic() - begun > READ_SECONDS:
            return images, read, time.monotonic() - begun
