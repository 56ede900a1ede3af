"""Random access to encoded images by sample number, from a packed data set or a plain folder of class folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hvd_imagenet.data import description, folder_index
from hvd_imagenet.data.files import Files, LocalFiles
from hvd_imagenet.data.index import SplitIndex
from hvd_imagenet.data.packing import workplace
from hvd_imagenet.data.remote import address
from hvd_imagenet.data.remote.caching import Caching
from hvd_imagenet.errors import DataError, SettingsError


class Store:
    """One split of a data set.

    Attributes:
        path: the data set's folder; of a remote one its URL, as a text.
        classes: names of the classes, in the order of the labels.
        labels: class numbers, int32, shape (samples,); memory-mapped, as long as nobody copies it whole.
        shard_samples: how many samples each file holds, int64, shape (files,): those that follow on the files' before.
    """

    def __init__(
        self,
        path: Path | str,
        classes: list[str],
        index: SplitIndex,
        files: Files,
        shard_samples: np.ndarray,
        contents: str,
        plain: bool,
    ):
        self.path = path
        self.classes = classes
        self.labels = index.label
        self.shard_samples = shard_samples
        self._index = index
        self._files = files
        self._contents = contents
        self._plain = plain  # each file one image, and anybody may replace it

    def __len__(self) -> int:
        return len(self.labels)

    def contents(self) -> str:
        """A short checksum of the split: its classes, and each sample's label, length and size, in their order."""
        return self._contents

    def sizes(self, numbers: np.ndarray | slice) -> np.ndarray:
        """Heights and widths of the given samples' encoded images, int64, shape (n, 2)."""
        return self._index.sizes(numbers)

    def parts(self) -> Iterator[slice]:
        """All samples, a part at a time: whole columns of a large set do not fit into memory."""
        return self._index.parts()

    def encoded_bytes(self) -> int:
        """Length of all encoded images together."""
        return int(self._index.length.sum(dtype=np.int64))

    def read(self, numbers: np.ndarray) -> list[np.ndarray]:
        """The encoded bytes of the given samples, uint8.

        Raises:
            DataError: a file cannot be read, or is shorter than the index says.
        """
        return [self._read(number) for number in numbers]

    def shards(self, numbers: np.ndarray) -> np.ndarray:
        """Which file holds each of the given samples, int64."""
        return self._index.shard[numbers].astype(np.int64)

    def expect(self, windows: Iterator[np.ndarray], in_flight: int) -> Callable[[], None]:
        """Get ready for samples to be read, see ``Files.expect``."""
        return self._files.expect(windows, in_flight)

    def room(self, at_once: int) -> int:
        """Bytes of local disk that it takes to read from so many files at a time, see ``Files.room``."""
        return self._files.room(at_once)

    def for_another_reader(self) -> Store:
        """The same split, to be read beside this one: each reader has expectations of its own."""
        files = self._files.for_another_reader()
        return Store(self.path, self.classes, self._index, files, self.shard_samples, self._contents, self._plain)

    def name(self, number: int) -> str:
        """What to call a sample in a message: its file, and its place in it."""
        index = self._index
        file = self._files.name(index.shard[number])
        place = f", sample {number}, bytes {index.offset[number]}+{index.length[number]}"
        return file if self._plain else file + place

    def _read(self, number: int) -> np.ndarray:
        index = self._index
        length = int(index.length[number])
        # Opened for each read: 11 microseconds in all for a small cached image, and no open files to keep count of.
        descriptor = self._files.open(index.shard[number])
        try:
            data = os.pread(descriptor, length, int(index.offset[number]))
            changed = len(data) != length or (self._plain and os.fstat(descriptor).st_size != length)
        except OSError as error:
            raise DataError(f"{self.name(number)}: cannot be read ({error.strerror})") from None
        finally:
            os.close(descriptor)
        if changed:
            remedy = f"remove {self.path / '.hvd_imagenet'}" if self._plain else "make the data set again"
            raise DataError(f"{self.name(number)}: the file has changed since it was indexed; {remedy}")
        return np.frombuffer(data, np.uint8)


def open_store(path: str | Path, split: str, caching: Caching | None = None) -> Store:
    """Open the ``train`` or ``val`` split of a data set; a plain folder is indexed the first time.

    Args:
        path: a folder, or the URL of a packed set.
        caching: of a remote set; None: as it is by default.

    Raises:
        SettingsError: an address that cannot be read from, or a cache that cannot be used.
        DataError: nothing there, not a data set, or a damaged one.
    """
    if address.is_url(str(path)):
        return _open_remote(str(path), split, caching or Caching())
    try:
        return _open_local(Path(path), split)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror})") from None


def _open_local(root: Path, split: str) -> Store:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give data.path the folder of a data set")
    if not any(root.iterdir()):
        raise DataError(f"{root}: the folder is empty; give data.path the folder of a data set")
    if (root / description.NAME).exists():
        return _open_packed(root, split)
    if (root / workplace.NOTES).exists():
        raise DataError(f"{root}: is not packed to its end; run the same command again to go on with that")
    classes, index, files = folder_index.open_or_make(root, split)
    one_each = np.ones(len(files), np.int64)
    return Store(root, classes, index, LocalFiles(root, files), one_each, index.contents(classes), plain=True)


def _open_packed(root: Path, split: str) -> Store:
    name = root / description.NAME
    try:
        data_set = description.parse(name.read_bytes(), str(name))
        found = data_set.splits[split]
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from None
    except KeyError:
        raise DataError(f"{name}: unreadable (has no split {split}); make the data set again") from None
    for shard in found.shards:
        if _length(root / shard.name) != shard.bytes:
            raise DataError(f"{root / shard.name}: missing or cut short; make the data set again")
    index = SplitIndex.load(root / split / "index.npz")
    if len(index) != found.samples or (root / split / "index.npz").stat().st_size != found.index_bytes:
        raise DataError(f"{root / split / 'index.npz'}: does not fit dataset.json; make the data set again")
    files = LocalFiles(root, [shard.name for shard in found.shards])
    shard_samples = np.array([shard.samples for shard in found.shards], np.int64)
    return Store(root, data_set.classes, index, files, shard_samples, found.contents, plain=False)


def _length(path: Path) -> int | None:
    """Of a file, in bytes; None: it cannot be found. One look at each of what may be half a million shards."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _open_remote(url: str, split: str, caching: Caching) -> Store:
    url = address.checked(url)
    try:
        from hvd_imagenet.data.remote import files as remote_files

        data_set, files = remote_files.open_split(url, split, caching)
    except ImportError as error:
        raise SettingsError(
            f"data.path: {address.without_secrets(url)}; remote data sets need the package {error.name}; run: pip "
            "install 'hvd_imagenet[remote]'"
        ) from None
    found, index = data_set.splits[split], files.index()
    if len(index) != found.samples:
        raise DataError(f"{url}/{split}/index.npz: does not fit dataset.json; make the data set again")
    shard_samples = np.array([shard.samples for shard in found.shards], np.int64)
    return Store(url, data_set.classes, index, files, shard_samples, found.contents, plain=False)
