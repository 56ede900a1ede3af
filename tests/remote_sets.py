"""Looking at remote data sets and at their cache."""

import fcntl
import os
import threading
import time

import numpy as np

from hvd_imagenet.data import description
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.remote.caching import Patience

QUICK = Patience(give_up=20, limit=5, pause=0.02, longest_pause=0.1)


SAMPLES = 120
GREY = Decoding(16, (0, 0, 0), (1 / 255,) * 3, 16, False, 1, None)


def describe(packed):
    return description.parse((packed / "dataset.json").read_bytes(), "dataset.json")


def everything(store):
    return [bytes(data) for data in store.read(np.arange(len(store)))]


def files_in(cache):
    return sorted(path.name for path in (cache.folder / "files").iterdir())


def size(entry):
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a fetch that was given up
        return 0


class Watched:
    """Looks at a cache all the time; `most` is the most that it has held, in bytes."""

    def __init__(self, cache):
        self.folder, self.most, self._done = cache.folder / "files", 0, False

    def __enter__(self):
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done = True
        self._thread.join()

    def _look(self):
        """Between the moments in which room is made, since a folder that changes on the way is none that ever was."""
        with (self.folder.parent / "lock").open() as lock:
            while not self._done:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.most = max(self.most, sum(map(size, os.scandir(self.folder))))
                fcntl.flock(lock, fcntl.LOCK_UN)
                time.sleep(0.001)


def until(condition):
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
