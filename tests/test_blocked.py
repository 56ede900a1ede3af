"""The blocked order: shards shuffled, then the samples of each window of them."""

import itertools
import weakref
from collections import Counter, deque

import numpy as np
import pytest
from holes import make_holes

from hvd_imagenet.data.dali import Decoding
from hvd_imagenet.data.requests import TrainRequests, Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.stream import BlockedOrder, GlobalOrder, SampleStream, share, shuffled
from hvd_imagenet.stream import order as order_module
from hvd_imagenet.stream.order import permutation

SHARDS = [3, 1, 4, 2, 5]  # samples 0-2, 3, 4-7, 8-9, 10-14
# Written down when the order was; a change breaks every run that is under way.
GOLDEN_SHARDS = {0: [0, 1, 3, 2, 4], 1: [4, 0, 1, 2, 3]}
GOLDEN_EPOCHS = {
    0: [1, 2, 0, 3, 8, 6, 7, 4, 5, 9, 13, 12, 10, 11, 14],
    1: [11, 1, 0, 13, 10, 14, 12, 2, 6, 7, 3, 5, 4, 8, 9],
}


def epoch_of(order, seed, epoch):
    return order.numbers(seed, epoch, 0, order.dataset_size).tolist()


def test_golden_epochs():
    order = BlockedOrder(SHARDS, 2)
    assert {epoch: epoch_of(order, 0, epoch) for epoch in (0, 1)} == GOLDEN_EPOCHS


def test_an_epoch_worked_by_hand():
    """Windows of two shards: of epoch 0 they are 0 and 1, 3 and 2, 4 alone, and end at positions 4, 10 and 15."""
    assert {epoch: shuffled(0, f"shards/{epoch}", 5).tolist() for epoch in (0, 1)} == GOLDEN_SHARDS
    samples = [range(0, 3), range(3, 4), range(4, 8), range(8, 10), range(10, 15)]
    for epoch, shards in GOLDEN_SHARDS.items():
        expected = []
        for number in range(3):
            window = [sample for shard in shards[2 * number : 2 * number + 2] for sample in samples[shard]]
            expected += [window[i] for i in shuffled(0, f"window/{epoch}/{number}", len(window))]
        assert expected == GOLDEN_EPOCHS[epoch]
    order = BlockedOrder(SHARDS, 2)
    for start, stop, expected in (
        (0, 4, [1, 2, 0, 3]),  # the first window
        (3, 4, [3]),  # its last sample
        (4, 5, [8]),  # the first of the second
        (3, 5, [3, 8]),
        (9, 11, [9, 13]),
        (2, 12, [0, 3, 8, 6, 7, 4, 5, 9, 13, 12]),  # parts of three windows
        (14, 15, [14]),
    ):
        assert BlockedOrder(SHARDS, 2).numbers(0, 0, start, stop).tolist() == expected
        assert order.numbers(0, 0, start, stop).tolist() == expected


@pytest.mark.parametrize(
    ("shards", "window"),
    [(SHARDS, 1), (SHARDS, 3), (SHARDS, 5), (SHARDS, 99), ([7], 1), ([7], 4), ([0, 3, 0, 0, 2], 1)],
)
def test_any_part_of_the_stream_is_the_same_however_it_is_asked_for(shards, window):
    size = sum(shards)
    whole = SampleStream(1, BlockedOrder(shards, window))
    expected = [number for part in whole.stretches(0, 4 * size) for number in part.numbers.tolist()]
    for epoch in range(4):
        assert sorted(expected[epoch * size : (epoch + 1) * size]) == list(range(size))
    for start in range(2 * size):
        for count in (1, 2, size - 1, size, 2 * size):
            parts = list(SampleStream(1, BlockedOrder(shards, window)).stretches(start, count))
            assert [number for part in parts for number in part.numbers.tolist()] == expected[start : start + count]
            assert all(part.position + len(part.numbers) <= size for part in parts)
            assert parts[0].epoch * size + parts[0].position == start


def test_a_window_of_everything_is_one_shuffle_of_everything():
    """So it is on a plain folder, whose files are shards of one sample: each sample is as likely in any place."""
    everything = shuffled(4, "window/0/0", 15)
    assert epoch_of(BlockedOrder([15], 1), 4, 0) == everything.tolist()
    for shards, window in (([2, 1, 3], 3), ([1] * 6, 2)):
        counts = np.zeros((6, 6))
        for seed in range(3000):
            counts[np.arange(6), epoch_of(BlockedOrder(shards, window), seed, 0)] += 1
        assert np.abs(counts - 500).max() < 100  # 500 expected, 4.9 standard deviations


def test_no_epoch_and_no_seed_is_like_another():
    order = BlockedOrder([50] * 20, 4)
    epochs = [epoch_of(order, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(one != other for one, other in itertools.combinations(epochs, 2))
    shards = [order._windows(seed, epoch)[0].tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(one != other for one, other in itertools.combinations(shards, 2))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, [[0, 1], [3, 2], [4], [4, 0], [1, 2], [3], "two"]),
        (3, [[0, 1], [3, 2], [4], [4, 0]]),
        (4, [[3, 2], [4], [4, 0]]),
        (14, [[4], [4, 0]]),
        (15, [[4, 0], [1, 2]]),
        (15 + 7, [[4, 0], [1, 2]]),
        (15 + 8, [[1, 2], [3], "two"]),
    ],
)
def test_the_windows_that_come_next(start, expected):
    two = shuffled(0, "shards/2", 5).tolist()[:2]
    windows = SampleStream(0, BlockedOrder(SHARDS, 2)).shards_from(start)
    found = [window.tolist() for window in itertools.islice(windows, len(expected))]
    assert found == [two if window == "two" else window for window in expected]


def test_the_windows_are_where_the_samples_come_from():
    shards, size = [7, 2, 9, 4, 4, 1, 8], 35
    shard_of = np.repeat(np.arange(7), shards)
    stream = SampleStream(5, BlockedOrder(shards, 3))
    start = 11
    for window in itertools.islice(stream.shards_from(start), 9):
        left = size - start % size  # of the epoch
        samples = [n for part in stream.stretches(start, left) for n in part.numbers.tolist()]
        inside = list(itertools.takewhile(lambda n, window=window: shard_of[n] in window, samples))
        assert inside and not set(samples[len(inside) :]) & set(inside)
        start += len(inside)
    assert start > 2 * size


def test_with_a_global_shuffle_no_shard_can_be_told_beforehand():
    assert list(SampleStream(0, GlobalOrder(9)).shards_from(4)) == []


def test_memory():
    assert GlobalOrder(10**9).peak_bytes == 24 * 10**9
    assert BlockedOrder([3, 1, 4, 2, 5], 2).peak_bytes == 24 * 5 + 32 * (4 + 5)  # shards, and the largest window
    assert BlockedOrder([3, 1, 4, 2, 5], 9).peak_bytes == 24 * 5 + 32 * 15


def test_a_billion_samples():
    """Far into the last epoch of ninety, on both sides of a window's end, and of the epoch's."""
    shards = np.full(434_783, 2300)
    shards[-1] = 10**9 - 434_782 * 2300
    stream = SampleStream(0, BlockedOrder(shards, 16))
    for position in (999_999_900, 500_000_000):
        start = 89 * 10**9 + position
        parts = list(stream.stretches(start, 300))
        epochs = [(89, position, 100), (90, 0, 200)] if position > 900_000_000 else [(89, position, 300)]
        assert [(part.epoch, part.position, len(part.numbers)) for part in parts] == epochs
        for part, window in zip(parts, stream.shards_from(start), strict=False):
            assert set((part.numbers // 2300).tolist()) <= set(window.tolist())
            assert part.numbers.dtype == np.int64 and 0 <= part.numbers.min() <= part.numbers.max() < 10**9


def read_by(workers, size, stream, store, batch):
    """What the workers of a node read in three epochs, moment by moment: (epoch, shard) of each sample.

    In a moment, each of the workers takes a micro-batch of 8.
    """
    policy = LargeBatchPolicy(len(store), 3, BatchSettings(batch, 8), LearningRateSettings())
    decoding = Decoding(8, (0,) * 3, (1,) * 3, 8, True, 1, None)
    requests = [
        TrainRequests(store, policy, stream, "shift_crop", Worker(rank, size), decoding).from_(0) for rank in workers
    ]
    shard_of = np.repeat(np.arange(len(store.shard_samples)), store.shard_samples)
    moments = []
    for plan in policy.steps():
        shares = [range(*share(plan.micro_batches, rank, size)) for rank in workers]
        for together in itertools.zip_longest(*shares):
            moment = []
            for mine, number in zip(requests, together, strict=True):
                if number is not None:
                    start = plan.samples_seen + 8 * number
                    shards = shard_of[next(mine).numbers].tolist()
                    moment += [((start + i) // len(store), shard) for i, shard in enumerate(shards)]
            moments.append(moment)
    return moments


def fetched(moments, stream, room):
    """How often each shard of an epoch is fetched by a node that keeps the last `room` windows that it came to."""
    windows, kept, fetches = stream.shards_from(0), deque(maxlen=room), Counter()
    taken, epoch = 0, 0
    for needed in itertools.chain.from_iterable(moments):
        while not any(needed in window for window in kept):
            assert needed[0] >= epoch, "needed again after it was dropped"
            kept.append([(epoch, shard) for shard in next(windows).tolist()])
            fetches.update(kept[-1])
            taken += len(kept[-1])
            epoch = taken // 143
    return fetches


def most_in_use(moments):
    """The largest number of shards in use at once, each from the first to the last sample that an epoch reads of it."""
    first, last = {}, {}
    for time, moment in enumerate(moments):
        for shard in moment:
            first.setdefault(shard, time)
            last[shard] = time
    return max(sum(first[shard] <= time <= last[shard] for shard in first) for time in range(len(moments)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """1,000 samples in 143 shards of 7, the last of 6. In windows of 6 shards, 42 samples, and 5 windows of 8 each."""
    return open_store(make_holes(tmp_path_factory.mktemp("holes"), 1000, 7), "train")


@pytest.mark.parametrize(
    ("ranks", "size", "batch", "windows"),
    [
        ([0], 1, 32, 1),
        ([0, 1], 2, 32, 2),
        ([0, 1, 2], 3, 32, 2),
        ([2, 3], 4, 32, 2),  # a node beside another
        ([0, 1, 2], 3, 240, 7),  # 5.7 windows in a step
    ],
)
def test_a_node_fetches_each_shard_once_per_epoch(ranks, size, batch, windows, store):
    stream = SampleStream(7, BlockedOrder(store.shard_samples, 6))
    moments = read_by(ranks, size, stream, store, batch)
    fetches = fetched(moments, stream, windows)
    for epoch in range(3):
        assert [fetches[epoch, shard] for shard in range(143)] == [1] * 143
    assert most_in_use(moments) <= (windows + 1) * 6
    assert most_in_use(read_by(ranks, size, SampleStream(7, GlobalOrder(1000)), store, batch)) > 100


def test_the_last_epoch_is_let_go_of_before_the_next_is_worked_out(monkeypatch):
    made = []

    def watched(*arguments):
        assert all(before() is None for before in made)
        new = permutation(*arguments)
        made.append(weakref.ref(new))
        return new

    monkeypatch.setattr(order_module, "permutation", watched)
    parts = list(SampleStream(0, GlobalOrder(10)).stretches(8, 14))  # all of them kept
    assert len(made) == len(parts) == 3


def test_threads_that_are_in_different_epochs_do_not_mix_them_up(monkeypatch):
    """While one works its epoch out, another one comes, and is done before."""
    order = GlobalOrder(10)
    first, second = permutation(0, 0, 10), permutation(0, 1, 10)

    def interrupted(seed, epoch, dataset_size):
        if epoch == 0:
            assert order.numbers(0, 1, 0, 10).tolist() == second.tolist()
        return permutation(seed, epoch, dataset_size)

    monkeypatch.setattr(order_module, "permutation", interrupted)
    assert order.numbers(0, 0, 0, 10).tolist() == first.tolist()
