"""Sets of many millions of images: no column of the index, and no epoch's order, is ever in memory as a whole."""

import shutil
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from holes import make_holes
from runs import train

from hvd_imagenet import data_cli, inputs
from hvd_imagenet.config import Config, StreamSettings
from hvd_imagenet.data import index
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import SettingsError
from hvd_imagenet.stream import BlockedOrder, GlobalOrder, SampleStream

# What it opens and walks along may take so many MiB beyond what the imports took. Maps of files do not count.
WALK = """
import re, resource, sys, time
from pathlib import Path
from hvd_imagenet.config import Config, DataSettings, StreamSettings
from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.inputs import sample_stream

def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

path, micro_batches, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before = memory("VmData")
resource.setrlimit(resource.RLIMIT_DATA, ((before + limit) * 2**20,) * 2)
began = time.monotonic()
store = open_store(path, "train")
opened = time.monotonic()
config = Config(data=DataSettings(augment="shift_crop"), stream=StreamSettings("blocked"))
decoding = Decoding(224, (0,) * 3, (1,) * 3, 256, True, 1, None)
policy, stream = config.policy(len(store)), sample_stream(config, store)
wanted = TrainRequests(store, policy, stream, "shift_crop", Worker(0, 1), decoding)
requests = wanted.from_(len(store) * 45 // 256 * 256)
for number in range(micro_batches):
    request = next(requests)
    store.labels[request.numbers]
    if number == 0:
        print(f"first micro-batch after {time.monotonic() - opened:.2f} s;", end=" ")
walked = time.monotonic()
print(f"{len(store):,} samples in {len(store.shard_samples):,} shards: opened in {opened - began:.2f} s, "
      f"{micro_batches} micro-batches in {walked - opened:.2f} s, {memory('VmData') - before} MiB of data, "
      f"{memory('RssAnon')} MiB in memory with the imports, {memory('RssFile')} MiB mapped")
"""

INFO = """
import re, resource, sys
from pathlib import Path
from hvd_imagenet.data.store import open_store
from hvd_imagenet.data_cli import _describe

data = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + int(sys.argv[2]) * 2**20,) * 2)
print(_describe(open_store(sys.argv[1], "train")))
"""

# Works out two epochs in a share of the memory that it says it needs, and a tenth of a megabyte for Python.
PEAK = """
import re, resource, sys
from pathlib import Path
from hvd_imagenet.stream import BlockedOrder, GlobalOrder

order = GlobalOrder(10**6) if sys.argv[1] == "global" else BlockedOrder([10**6 - 1, 1], 2)
data = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + int(order.peak_bytes * float(sys.argv[2])) + 100_000,) * 2)
for epoch in range(2):
    order.numbers(0, epoch, 5, 9)
"""


@pytest.fixture(scope="module")
def ten_million(tmp_path_factory):
    return make_holes(tmp_path_factory.mktemp("holes"), 10_000_000, 23_000)


def run(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_walk_along_ten_million_samples(ten_million):
    """A column of labels is 38 MiB, one of sizes 153, an epoch's order 76; a window of 16 shards 2.8, 7 at its peak."""
    print(run(WALK, ten_million, 13_000, 30))  # 416,000 samples: into the second window


def test_what_is_in_ten_million_samples_is_told_in_parts(ten_million):
    print(run(INFO, ten_million, 40))


@pytest.mark.parametrize("order", ["global", "blocked"])
def test_an_order_takes_the_memory_that_it_says(order):
    run(PEAK, order, 1)
    with pytest.raises(AssertionError, match="MemoryError|Unable to allocate"):
        run(PEAK, order, 0.92)


@pytest.mark.long
def test_a_walk_along_a_billion_samples(tmp_path):
    """What it takes is for the names of 435,000 shards, twice as much while it reads them."""
    print(run(WALK, make_holes(tmp_path / "holes", 10**9, 2300), 20_000, 450))
    shutil.rmtree(tmp_path / "holes")  # not to be kept: half a million files


@pytest.mark.parametrize("at_once", [1, 16, 50, 2**18])
def test_what_is_in_a_set_does_not_depend_on_the_parts(at_once, image_folder, monkeypatch):
    contents = open_store(image_folder, "train").contents()
    monkeypatch.setattr(index, "AT_ONCE", at_once)
    store = open_store(image_folder, "train")
    sizes = store.sizes(slice(None))
    assert [part.start for part in store.parts()] == list(range(0, 50, at_once))
    assert (sizes.min(), sizes.max(), np.median(sizes.min(1)), np.median(sizes.max(1))) == (20, 28, 21, 26)
    mebibytes = sum(len(data) for data in store.read(np.arange(50))) / 2**20
    expected = f"50 images, 25 to 25 per class, {mebibytes:.1f} MiB, sides 20 to 28 pixels, median 21 x 26"
    assert data_cli._describe(store) == expected
    assert store.contents() == contents


@pytest.mark.parametrize(
    ("values", "expected"), [([7], 7), ([7, 8], 7.5), ([9, 7, 7], 7), ([7, 9, 9, 7], 8), ([1, 5, 5, 9], 5)]
)
def test_a_median_of_counted_values(values, expected):
    assert data_cli._median(Counter(values)) == expected


ONE = Config(), SampleStream(0, GlobalOrder(10**9))  # 24 bytes each: 22.4 GiB
WINDOW = Config(stream=StreamSettings("blocked", 2)), SampleStream(0, BlockedOrder([10**9 - 2, 1, 1], 2))


@pytest.mark.parametrize(
    ("settings", "sharing", "needed", "message"),
    [
        (ONE, 1, 24 * 10**9, "stream.shuffle: global; shuffling 1,000,000,000 images takes 22.4 GiB in each worker, "
         "and [^ ]+ has 22.4 GiB for 1; set stream.shuffle to blocked"),
        (ONE, 8, 192 * 10**9, "in each worker, and [^ ]+ has 178.8 GiB for 8; set stream.shuffle to blocked"),
        (WINDOW, 1, 72 + 32 * (10**9 - 1), "stream.window: 2; shuffling 1,000,000,000 images takes 29.8 GiB .*; lower"),
    ],
)  # fmt: skip
def test_an_order_that_does_not_fit_into_memory_is_refused(settings, sharing, needed, message, monkeypatch):
    monkeypatch.setattr(inputs.psutil, "virtual_memory", lambda: SimpleNamespace(total=has))
    has = needed
    inputs.check_memory(*settings, sharing)
    has = needed - 1
    with pytest.raises(SettingsError, match=message):
        inputs.check_memory(*settings, sharing)


def test_a_run_that_does_not_fit_into_memory_begins_no_work(recipe, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inputs.psutil, "virtual_memory", lambda: SimpleNamespace(total=1199))  # 50 images need 1,200
    assert train(recipe, image_folder, tmp_path / "run") == 2
    assert "set stream.shuffle to blocked" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
