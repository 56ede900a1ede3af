"""The loader beside the training: what it does ahead, in which order, and how it ends."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hvd_imagenet.data.dali import PREFETCH, Decoding
from hvd_imagenet.data.loader import DECODED_AHEAD, READ_AHEAD, TrainLoader, _verify, evaluation_batches
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import Store, open_store
from hvd_imagenet.errors import DataError
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.stream import GlobalOrder, SampleStream

ALONE = Worker(0, 1)
SMALL = Decoding(16, (0, 0, 0), (1, 1, 1), 16, False, 1, None)


def train_loader(store, epochs=1, micro=5, decoding=SMALL):
    policy = LargeBatchPolicy(len(store), epochs, BatchSettings(10, micro), LearningRateSettings())
    stream = SampleStream(0, GlobalOrder(len(store)))
    return policy, TrainLoader(TrainRequests(store, policy, stream, "random_resized_crop", ALONE, decoding))


def all_batches(policy, loader):
    for plan in policy.steps():
        yield from loader.micro_batches(plan)


def workers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "request", "read"))]


@pytest.fixture
def store(image_folder):
    return open_store(image_folder, "train")


@pytest.fixture
def slow(store, monkeypatch):
    """A store on a disk that takes 5 ms for each image; and on which threads it is read."""
    read, on = Store.read, []

    def slowly(self, numbers):
        on.append(threading.current_thread())
        time.sleep(0.005 * len(numbers))
        return read(self, numbers)

    monkeypatch.setattr(Store, "read", slowly)
    return store, on


def test_reading_decoding_and_training_go_on_at_once(slow):
    """200 images: 1 s to read one after the other, and 0.8 s to train on, which is all that is waited for."""
    store, on = slow
    policy, loader = train_loader(store, epochs=4)
    with loader:
        batches = all_batches(policy, loader)
        next(batches)  # DALI has started
        start = time.monotonic()
        for _ in batches:
            time.sleep(0.02)
        assert time.monotonic() - start < 39 * 0.02 + 0.25
    assert threading.main_thread() not in on and len(set(on)) > 1


def test_a_fast_loader_keeps_nobody_waiting(slow):
    """With 10 ms of training per micro-batch of 5, reads of 25 ms are hidden, as three of them go on at once."""
    store, _ = slow
    policy, loader = train_loader(store, epochs=4)
    with loader:
        batches, waited = all_batches(policy, loader), []
        for _ in range(30):
            start = time.monotonic()
            next(batches)
            waited.append(time.monotonic() - start)
            time.sleep(0.01)
    assert np.median(waited[5:]) < 0.003


def test_no_more_is_read_than_is_allowed(store, monkeypatch):
    read, numbers = Store.read, []
    monkeypatch.setattr(Store, "read", lambda self, some: [numbers.extend(some), read(self, some)][1])
    policy, loader = train_loader(store, epochs=100)
    with loader:
        next(all_batches(policy, loader))
        time.sleep(1)
        before = len(numbers)
        time.sleep(0.2)
        assert before == len(numbers)
    # The one taken, those decoded, those that DALI has or is about to get, and those read or asked for.
    assert READ_AHEAD - 5 < before <= 5 * (1 + DECODED_AHEAD + PREFETCH + 2 + READ_AHEAD // 5 + 1)


def test_order_and_content_are_the_streams(slow):
    """Whatever is done at once; the last batch is short."""
    store, _ = slow
    with evaluation_batches(store, 7, ALONE, SMALL) as batches:
        labels = [np.from_dlpack(batch.labels).tolist() for batch in batches]
    assert [len(some) for some in labels] == [7] * 7 + [1]
    assert sum(labels, []) == store.labels.tolist()


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_in_the_middle_leaves_no_thread(slow, taken):
    store, _ = slow
    policy, loader = train_loader(store, epochs=10)
    with loader:
        batches = all_batches(policy, loader)
        for _ in range(taken):
            next(batches)
        assert "decode" in workers()
    assert workers() == []
    with evaluation_batches(store, 7, ALONE, SMALL) as batches:
        for _ in range(taken):
            next(batches)
    assert workers() == []


def test_batches_outlive_the_loader(store):
    with evaluation_batches(store, 7, ALONE, SMALL) as batches:
        kept = [next(batches) for _ in range(2)]
        pixels = [np.array(np.from_dlpack(batch.images)) for batch in kept]
    for batch, before in zip(kept, pixels, strict=True):
        assert np.array_equal(np.from_dlpack(batch.images), before)


def test_a_vanished_file_is_named_after_the_batches_before_it(store, monkeypatch):
    read = Store._read

    def vanished(self, number):
        if number == 33:
            raise DataError(f"{self.name(number)}: cannot be read (No such file or directory)")
        return read(self, number)

    monkeypatch.setattr(Store, "_read", vanished)
    taken = 0
    with pytest.raises(DataError, match="cannot be read"), evaluation_batches(store, 5, ALONE, SMALL) as batches:
        for _ in batches:
            taken += 1
    assert taken == 6  # of 5: the 34th image is in the seventh
    assert workers() == []


def test_an_undecodable_image_is_named_after_the_batches_before_it(store, monkeypatch):
    read = Store._read
    monkeypatch.setattr(Store, "_read", lambda self, n: read(self, n)[:200] if n == 33 else read(self, n))
    taken = 0
    with pytest.raises(DataError) as error, evaluation_batches(store, 5, ALONE, SMALL) as batches:
        for _ in batches:
            taken += 1
    assert taken == 6
    said = str(error.value)
    assert said.startswith(f"{store.name(33)}: cannot be decoded (")
    assert said.endswith(f"to find all such files: hvd-imagenet data verify {store.path}")
    assert workers() == []


def test_how_to_find_what_cannot_be_decoded():
    assert _verify(Path("/a/my photos")) == "hvd-imagenet data verify '/a/my photos'"
    remote = "hvd-imagenet data verify FOLDER, with the folder that s3://bucket/set was copied from"
    assert _verify("s3://bucket/set") == remote


def test_any_other_error_reaches_the_training_as_it_is(store, monkeypatch):
    monkeypatch.setattr(Store, "read", lambda self, numbers: 1 / 0)
    policy, loader = train_loader(store)
    with pytest.raises(ZeroDivisionError), loader:
        next(all_batches(policy, loader))


@pytest.mark.parametrize("end", ["", "raise SystemExit(7)", "raise KeyboardInterrupt"])
def test_the_interpreter_ends_without_a_crash(image_folder, end):
    """With a loader that nobody has closed, at work."""
    program = f"""
from hvd_imagenet.data.loader import *
from hvd_imagenet.data.requests import *
from hvd_imagenet.data.store import open_store
from hvd_imagenet.policy import *
from hvd_imagenet.stream import GlobalOrder
store = open_store({str(image_folder)!r}, "train")
policy = LargeBatchPolicy(len(store), 1000, BatchSettings(10, 5), LearningRateSettings())
decoding = dali.Decoding(16, (0, 0, 0), (1, 1, 1), 16, False, 1, None)
stream = SampleStream(0, GlobalOrder(len(store)))
loader = TrainLoader(TrainRequests(store, policy, stream, "random_resized_crop", Worker(0, 1), decoding))
kept = list(loader.micro_batches(next(policy.steps())))
more = evaluation_batches(store, 5, Worker(0, 1), decoding)
next(more)
{end}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    expected = {"": 0, "raise SystemExit(7)": 7, "raise KeyboardInterrupt": -2}[end]
    assert done.returncode == expected, done.stderr
    assert done.stderr == "" or end == "raise KeyboardInterrupt"
