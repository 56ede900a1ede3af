"""The cache of remote data sets: within its bound, shared by processes, filled ahead of what is read."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from remote_sets import QUICK, SAMPLES, Watched, describe, everything, files_in, until

from hvd_imagenet import inputs, settings
from hvd_imagenet.data.loader import in_flight
from hvd_imagenet.data.remote.cache import require_room
from hvd_imagenet.data.remote.caching import Caching, Patience, default_folder
from hvd_imagenet.data.remote.prefetch import Prefetcher
from hvd_imagenet.data.requests import Worker, evaluation_shards
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError, SettingsError


@pytest.fixture
def expect(server):
    """Lets a store expect windows of shards, with 100 images in flight, until the test is over."""
    ends = []
    yield lambda store, windows: ends.append(store.expect(iter(windows), 100))
    for end in ends:
        end()


def test_the_cache_keeps_within_its_bound(packed, server, cache):
    """Far too small for the split, with four readers that take samples by chance: slower, never larger."""
    split = describe(packed).splits["train"]
    largest = max(shard.bytes for shard in split.shards)
    small = Caching(cache.folder, split.index_bytes + 5 * largest, QUICK)
    store, plain = open_store(server.url, "train", small), open_store(packed, "train")
    failed = []

    def read(seed):
        for number in np.random.default_rng(seed).integers(0, SAMPLES, 100):
            if bytes(store.read([number])[0]) != bytes(plain.read([number])[0]):
                failed.append(number)

    with Watched(small) as watched:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert small.limit - 2 * largest < watched.most <= small.limit


@pytest.mark.parametrize("oldest", [0, 1, 2])
def test_the_least_recently_used_goes_first(packed, server, cache, oldest):
    split = describe(packed).splits["train"]
    size = split.shards[0].bytes
    assert all(shard.bytes == size for shard in split.shards[:4])
    files = open_store(server.url, "train", Caching(cache.folder, split.index_bytes + 3 * size, QUICK))._files
    others = [(oldest + 1) % 3, (oldest + 2) % 3]
    for shard in (0, 1, 2):
        os.close(files.open(shard))
    for age, shard in enumerate([others[0], oldest, others[1]]):
        used = time.time() - 1000 + age
        os.utime(cache.folder / "files" / split.shards[shard].sha256, (used, used))
    os.close(files.open(others[0]))  # was the oldest until now
    os.close(files.open(3))
    assert set(files_in(cache)) == {split.index_sha256, *(split.shards[shard].sha256 for shard in (*others, 3))}


def test_an_open_file_can_be_read_after_it_has_gone(packed, server, cache):
    split = describe(packed).splits["train"]
    size = split.shards[0].bytes
    store = open_store(server.url, "train", Caching(cache.folder, split.index_bytes + size, QUICK))
    descriptor = store._files.open(0)
    os.close(store._files.open(1))
    assert set(files_in(cache)) == {split.index_sha256, split.shards[1].sha256}  # the index is in use
    assert os.pread(descriptor, size, 0) == (packed / split.shards[0].name).read_bytes()
    os.close(descriptor)


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 100), lambda path: path.unlink()])
def test_a_damaged_file_in_the_cache_is_fetched_again(packed, server, cache, damage):
    store = open_store(server.url, "train", cache)
    shard = describe(packed).splits["train"].shards[0]
    before = bytes(store.read([0])[0])
    damage(cache.folder / "files" / shard.sha256)
    assert bytes(store.read([0])[0]) == before
    assert server.requests[shard.name] == 2


def test_a_full_disk(server, packed, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        small = Caching(disk / "cache", 2**20, QUICK)
        store, plain = open_store(server.url, "train", small), open_store(packed, "train")
        for number in range(SAMPLES):  # goes on with fewer shards than the limit allows
            assert np.array_equal(store.read([number])[0], plain.read([number])[0])
        for shard in describe(packed).splits["train"].shards:
            (disk / "cache" / "files" / shard.sha256).unlink(missing_ok=True)
        with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        with pytest.raises(
            DataError, match=r"cache: cannot be written \(No space left on device\); free some space, or"
        ):
            store.read([0])
        (disk / "filler").unlink()
        assert np.array_equal(store.read([0])[0], plain.read([0])[0])
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


READER = """
import sys, time
import numpy as np
from pathlib import Path
from hvd_imagenet.data.remote.cache import require_room
from hvd_imagenet.data.remote.caching import Caching, Patience
from hvd_imagenet.data.store import open_store
url, cache, limit = sys.argv[1:]
store = open_store(url, "train", Caching(Path(cache), int(limit), Patience(20, 5, 0.02, 0.1)))
for number in range(len(store)):
    store.read([number])
print("all read")
"""


def reader(url, cache):
    command = [sys.executable, "-c", READER, url, str(cache.folder), str(cache.limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_cache(server, packed, cache):
    processes = [reader(server.url, cache) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["all read\n"] * 2
    split = describe(packed).splits["train"]
    assert {name: count for name, count in server.requests.items() if count > 1} == {"dataset.json": 2}
    assert len(files_in(cache)) == len(split.shards) + 1


def test_a_process_killed_in_the_middle_of_a_fetch(server, packed, cache):
    process = reader(server.url, cache)
    until(lambda: (cache.folder / "files").exists() and len(files_in(cache)) > 2)
    server.gate.clear()
    until(lambda: any(name.endswith(".partial") for name in files_in(cache)))
    process.kill()
    process.wait()
    server.gate.set()
    whole = [name for name in files_in(cache) if not name.endswith(".partial")]
    assert len(whole) < len(files_in(cache))
    store, plain = open_store(server.url, "train", cache), open_store(packed, "train")
    assert files_in(cache) == whole  # what it left half is gone
    assert everything(store) == everything(plain)
    for shard in describe(packed).splits["train"].shards:
        assert (cache.folder / "files" / shard.sha256).read_bytes() == (packed / shard.name).read_bytes()


def windows(packed, size):
    count = len(describe(packed).splits["train"].shards)
    return [np.arange(first, min(first + size, count)) for first in range(0, count, size)]


def test_windows_are_fetched_ahead(server, packed, cache, monkeypatch, expect):
    """The window at hand and the next: no sooner, no later; each shard once; what is behind makes room."""
    split = describe(packed).splits["train"]
    plan = windows(packed, 3)
    assert len(plan) >= 4
    room = split.index_bytes + 6 * max(shard.bytes for shard in split.shards)
    store = open_store(server.url, "train", Caching(cache.folder, room, QUICK))
    first = np.cumsum([0] + [shard.samples for shard in split.shards])
    expect(store, plan)

    def here():
        return {n for n, shard in enumerate(split.shards) if shard.sha256 in files_in(cache)}

    until(lambda: here() == {0, 1, 2, 3, 4, 5})
    server.gate.clear()  # all that is read now is there already
    store.read(np.arange(first[6]))
    server.gate.set()
    time.sleep(0.1)
    assert here() == {0, 1, 2, 3, 4, 5}  # reads of the first window may still come
    for _ in range(100):
        store.read([first[4]])
    until(lambda: here() == {3, 4, 5, 6, 7, 8})
    assert max(server.requests[shard.name] for shard in split.shards) == 1


def test_a_worker_that_reads_little_of_each_part_is_fetched_for():
    """Five reads of a part, with five in flight: then the part before is over, and the one after is fetched."""
    fetched = []
    prefetcher = Prefetcher(
        iter([np.array([0, 1]), np.array([2]), np.array([3])]), lambda n: not fetched.append(n), lambda _: None, 5
    )
    until(lambda: fetched == [0, 1, 2])
    for shard in (0, 2, 2, 2, 2, 0, 2, 2, 2, 2):
        prefetcher.reached(shard)
    time.sleep(0.05)
    assert fetched == [0, 1, 2]
    prefetcher.reached(2)
    until(lambda: 3 in fetched)
    prefetcher.close()


def test_the_parts_of_an_evaluation(packed):
    """Shards of 7, 7, 7, 7 and 2: with 4 images in flight, a part has 8 or more."""
    store = open_store(packed, "val")
    assert [part.tolist() for part in evaluation_shards(store, Worker(0, 1), 4)] == [[0, 1], [2, 3], [4]]
    assert [part.tolist() for part in evaluation_shards(store, Worker(0, 1), 3)] == [[0], [1], [2], [3], [4]]
    assert [part.tolist() for part in evaluation_shards(store, Worker(1, 2), 4)] == [[2, 3], [4]]
    assert [in_flight(32), in_flight(256), in_flight(1000)] == [9 * 32, 3 * 256, 3 * 1000]


def test_two_readers_hold_what_the_slower_needs(server, packed, cache, expect):
    """One is a window ahead: what the other still reads is not let go of."""
    split = describe(packed).splits["train"]
    plan = windows(packed, 3)
    room = split.index_bytes + 6 * max(shard.bytes for shard in split.shards)
    fast, slow = (open_store(server.url, "train", Caching(cache.folder, room, QUICK)) for _ in range(2))
    first = np.cumsum([0] + [shard.samples for shard in split.shards])
    for store in (fast, slow):
        expect(store, plan)
    until(lambda: len(files_in(cache)) == 7)
    for _ in range(100):
        fast.read([first[3]])
    time.sleep(0.3)
    server.gate.clear()
    slow.read(np.arange(first[3]))
    server.gate.set()
    for _ in range(100):
        slow.read([first[3]])
    until(lambda: split.shards[8].sha256 in files_in(cache))
    assert max(server.requests[shard.name] for shard in split.shards) == 1


def test_a_whole_epoch_in_windows(server, packed, cache, expect):
    """Window by window, samples shuffled within: each shard is fetched once, with room for two windows only."""
    split = describe(packed).splits["train"]
    plan = windows(packed, 2)
    room = split.index_bytes + 4 * max(shard.bytes for shard in split.shards)
    small = Caching(cache.folder, room, QUICK)
    store, plain = open_store(server.url, "train", small), open_store(packed, "train")
    first = np.cumsum([0] + [shard.samples for shard in split.shards])
    expect(store, plan)
    with Watched(small) as watched:
        for window in plan:
            numbers = np.random.default_rng(0).permutation(np.arange(first[window[0]], first[window[-1] + 1]))
            for number in numbers:
                assert np.array_equal(store.read([number])[0], plain.read([number])[0])
    assert watched.most <= room
    assert Counter(server.requests[shard.name] for shard in split.shards) == {1: len(split.shards)}


def test_two_workers_fetch_a_shard_once_between_them(server, packed, cache, expect):
    """Both read ahead of themselves, each what the other does not."""
    split = describe(packed).splits["train"]
    stores = [open_store(server.url, "train", cache) for _ in range(2)]
    for store in stores:
        expect(store, [np.arange(len(split.shards))])
    until(lambda: len(files_in(cache)) == len(split.shards) + 1)
    assert max(server.requests[shard.name] for shard in split.shards) == 1


def test_a_cache_full_of_what_others_read(server, packed, cache, expect):
    split = describe(packed).splits["train"]
    room = split.index_bytes + 2 * split.shards[0].bytes
    reading, other = (
        open_store(server.url, "train", Caching(cache.folder, room, Patience(0.5, 5, 0.02))) for _ in range(2)
    )
    expect(reading, [np.array([0, 1])])
    until(lambda: len(files_in(cache)) == 3)
    with pytest.raises(DataError, match="cache: is full of what is read now, with data.cache_gib .*; raise it, or"):
        other._files.open(2)
    assert set(files_in(cache)) == {split.index_sha256, split.shards[0].sha256, split.shards[1].sha256}


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_folder() == tmp_path / f"hvd_imagenet-{os.getuid()}"
    monkeypatch.delenv("TMPDIR")
    assert default_folder() == Path(f"/var/tmp/hvd_imagenet-{os.getuid()}")
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "hvd_imagenet-4711").symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="hvd_imagenet-4711 belongs to another user"):
        default_folder()


def test_a_cache_that_cannot_be(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="data.cache_dir: .*/file; cannot be used .*; name another folder"):
        open_store(server.url, "train", Caching(tmp_path / "file", 2**20, QUICK))


def test_how_much_room_is_needed(packed, server, cache, monkeypatch):
    """All training shards and index, four validation shards and index: not a byte less.

    Of an evaluation with 4 images in flight, a part are shards with 8 images or more: two.
    """
    sets = describe(packed).splits
    assert [shard.samples for shard in sets["val"].shards] == [7, 7, 7, 7, 2]
    monkeypatch.setattr(inputs, "in_flight", lambda batch_size: 4)
    train_set, val_set = (open_store(server.url, split, cache) for split in ("train", "val"))
    largest = sorted(shard.bytes for shard in sets["val"].shards)[-4:]
    needed = sum(sets[s].index_bytes for s in sets) + sum(s.bytes for s in sets["train"].shards) + sum(largest)
    config = settings.parse(settings.parser("", ""), ["--data.cache_dir", str(cache.folder)])[0]
    for limit, right in ((needed, True), (needed - 1, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inputs, "caching", lambda _, limit=limit: Caching(cache.folder, limit, QUICK))
            try:
                inputs.check_cache(config, config.policy(SAMPLES), train_set, val_set, None, 1, 1)
            except SettingsError:
                assert not right
            else:
                assert right


def test_a_disk_that_is_too_small_is_said_at_the_start(server, cache):
    with pytest.raises(SettingsError, match="cache_dir: .*; it needs 1e.06 GiB in the cache of each host, and"):
        require_room(Caching(cache.folder, 2**60, QUICK), 10**6 * 2**30, "it", "wait")
