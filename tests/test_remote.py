"""Data sets behind a URL, over networks and servers that fail, and what is said where it is in vain."""

import time

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from remote_sets import GREY, QUICK, SAMPLES, Watched, describe, everything, files_in
from runs import train

from hvd_imagenet import cli, export, settings
from hvd_imagenet.data import loader as loading
from hvd_imagenet.data.loader import TrainLoader, batches_ahead, evaluation_batches
from hvd_imagenet.data.remote import fetching as remote
from hvd_imagenet.data.remote.caching import Caching, Patience
from hvd_imagenet.data.requests import TrainRequests, Worker, shards_at_once, spread
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError
from hvd_imagenet.policy import BatchSettings, LargeBatchPolicy, LearningRateSettings
from hvd_imagenet.stream import BlockedOrder, GlobalOrder, SampleStream


@pytest.fixture
def in_small_ranges(monkeypatch):
    monkeypatch.setattr(remote, "RANGE_BYTES", 1000)


def loader(store, epochs=1):
    policy = LargeBatchPolicy(
        SAMPLES, epochs, BatchSettings(global_size=24, micro_size=8), LearningRateSettings(reference_batch=8)
    )
    stream = SampleStream(5, GlobalOrder(SAMPLES))
    return policy, TrainLoader(TrainRequests(store, policy, stream, "none", Worker(0, 1), GREY))


def epoch(store):
    """What an epoch of training gets, image by image, and their labels."""
    policy, made = loader(store)
    with made:
        batches = [batch for plan in policy.steps() for batch in made.micro_batches(plan)]
    return [
        (np.from_dlpack(image).tobytes(), int(label))
        for batch in batches
        for image, label in zip(np.from_dlpack(batch.images), np.from_dlpack(batch.labels), strict=True)
    ]


def test_an_epoch_over_a_network_that_fails(packed, server, cache, in_small_ranges):
    """Every 20th connection is cut off, every 97th stalls: every sample comes once, each range is fetched once."""
    server.drop_every, server.stall_every = 20, 97
    cache = Caching(cache.folder, cache.limit, Patience(20, 1, 0.02, 0.1))
    store = open_store(server.url, "train", cache)
    with Watched(cache) as watched:
        images = epoch(store)
    assert images == epoch(open_store(packed, "train"))
    assert len(images) == len(set(images)) == SAMPLES
    split = describe(packed).splits["train"]
    assert server.requests.total() > 100  # so that some were cut off, and some have stalled
    for shard in split.shards:  # what has come before a cut is not asked for again
        assert server.sent[shard.name] == shard.bytes
    whole = split.index_bytes + sum(shard.bytes for shard in split.shards)
    assert watched.most == whole == sum(path.stat().st_size for path in (cache.folder / "files").iterdir())
    asked = server.requests.total()
    assert epoch(open_store(server.url, "train", cache)) == images
    assert server.requests.total() <= asked + 2  # dataset.json alone, and perhaps once more


def test_a_blocked_epoch_through_a_smaller_cache(packed, server, tmp_path, monkeypatch):
    """Each shard is fetched once, though the cache holds a part of them; the local set gives the same images.

    With micro-batches of 2, a worker has begun 2 + 3 + 2 + 2 of them, and steps of 4: it is spread over 6 steps, or 24
    samples, 4 shards of 7. Windows of 2 make parts of 4 shards, or 5 at the end of an epoch.
    """
    monkeypatch.setattr(loading, "READ_AHEAD", 4)
    split = describe(packed).splits["train"]
    assert [shard.samples for shard in split.shards[:-1]] == [7] * 17 and split.shards[-1].samples == 1
    policy = LargeBatchPolicy(SAMPLES, 1, BatchSettings(4, 2), LearningRateSettings(reference_batch=2))
    assert spread(policy, 1, batches_ahead(2)) == 24
    samples = np.array([shard.samples for shard in split.shards])
    assert shards_at_once(samples, 2, 24) == (2 * 3 + 1) * 2  # the 5 smallest hold 29, which may take 3 windows
    limit = split.index_bytes + sum(sorted(shard.bytes for shard in split.shards)[-14:])
    store = open_store(server.url, "train", Caching(tmp_path / "cache", limit, QUICK))
    assert store.room(14) == limit
    with Watched(Caching(tmp_path / "cache", limit)) as watched:
        images = blocked_epoch(store, policy)
    assert images == blocked_epoch(open_store(packed, "train"), policy)
    assert len(set(images)) == SAMPLES and watched.most <= limit
    assert max(server.sent[shard.name] / shard.bytes for shard in split.shards[4:]) <= 2  # again for the next epoch
    assert min(server.sent[shard.name] / shard.bytes for shard in split.shards) == 1


def blocked_epoch(store, policy):
    """The images of an epoch in windows of two shards."""
    stream = SampleStream(5, BlockedOrder(store.shard_samples, 2))
    with TrainLoader(TrainRequests(store, policy, stream, "none", Worker(0, 1), GREY)) as made:
        batches = [batch for plan in policy.steps() for batch in made.micro_batches(plan)]
    return [np.from_dlpack(image).tobytes() for batch in batches for image in np.from_dlpack(batch.images)]


@pytest.fixture(scope="module")
def s3(packed):
    """The URL of the set on a server that does what S3 does."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "secret-key", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        files.put(f"{packed}/", "bucket/sets/imagenet", recursive=True)
        yield "s3://bucket/sets/imagenet"
    server.stop()


def test_an_epoch_from_s3(packed, s3, cache):
    assert epoch(open_store(s3, "train", cache)) == epoch(open_store(packed, "train"))
    store = open_store(f"{s3}/", "val", cache)
    assert store.path == s3
    assert store.contents() == open_store(packed, "val").contents()


def test_what_s3_does_not_have(s3, cache):
    with pytest.raises(DataError, match="s3://bucket/nothing: has no dataset.json, and only packed sets .* data pack"):
        open_store("s3://bucket/nothing", "train", cache)


def test_an_evaluation_reads_ahead(server, packed, cache):
    batches = evaluation_batches(open_store(server.url, "val", cache), 8, Worker(0, 1), GREY)
    found = [label for batch in batches for label in np.from_dlpack(batch.labels)]
    assert found == open_store(packed, "val").labels.tolist()
    assert max(server.requests[shard.name] for shard in describe(packed).splits["val"].shards) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "dataset.json: access is denied .ClientResponseError: 403, .*; give credentials where"),
        (401, "access is denied"),
        (404, "has no dataset.json, and only packed sets are read from a URL; make one with 'hvd-imagenet data pack"),
        (410, "cannot be read .*410"),
    ],
)
def test_answers_that_no_patience_helps(server, cache, status, message):
    server.status = status
    with pytest.raises(DataError, match=message):
        open_store(server.url, "train", cache)
    assert server.requests.total() == 1


def test_a_shard_that_is_gone_ends_the_run_at_once(server, packed, cache):
    store = open_store(server.url, "train", cache)
    server.status = 404
    with pytest.raises(DataError, match="train/shard-000000.tar: is not there"):
        store.read([0])
    assert server.requests["train/shard-000000.tar"] == 1


def test_a_shard_of_another_length_is_not_taken(server, packed, cache):
    store = open_store(server.url, "train", cache)
    server.replaced["train/shard-000000.tar"] = b"x" * 500
    short = Caching(cache.folder, 2**20, Patience(0.3, 5, 0.05, 0.1))
    with pytest.raises(DataError, match="500 bytes of 20480"):
        open_store(server.url, "train", short).read([0])
    assert len(files_in(cache)) == 1 and store


def test_a_shard_with_a_wrong_checksum(server, packed, cache):
    store = open_store(server.url, "train", cache)
    name = describe(packed).splits["train"].shards[0].name
    data = bytearray((packed / name).read_bytes())
    data[600] ^= 1
    server.replaced[name] = bytes(data)
    with pytest.raises(
        DataError, match=f"{name}: its sha256 is not the one in dataset.json, nor was it when fetched again; copy"
    ):
        store.read([0])
    assert server.requests[name] == 2
    assert files_in(cache) == [describe(packed).splits["train"].index_sha256]  # nothing that looks whole
    del server.replaced[name]
    assert bytes(store.read([0])[0]) == bytes(open_store(packed, "train").read([0])[0])


def test_a_checksum_that_is_a_path_is_not_taken(server, packed, cache):
    shard = describe(packed).splits["train"].shards[0]
    text = (packed / "dataset.json").read_text().replace(shard.sha256, "../../../etc/passwd")
    server.replaced["dataset.json"] = text.encode()
    with pytest.raises(DataError, match="dataset.json: unreadable .length or sha256 of train/shard-000000.tar"):
        open_store(server.url, "train", cache)


def test_a_server_without_ranges(server, cache, in_small_ranges):
    server.ranges = False
    with pytest.raises(DataError, match="the server does not serve parts of files"):
        open_store(server.url, "train", cache)


def test_a_folder_of_this_machine_by_its_url(packed, cache):
    store = open_store(f"file://{packed}", "val", cache)
    assert everything(store) == everything(open_store(packed, "val"))
    shard = describe(packed).splits["val"].shards[0]
    cached = cache.folder / "files" / shard.sha256
    assert store.name(3).startswith(f"file://{packed}/{shard.name} (cached as {cached}), sample 3, bytes ")


def run_options(cache, gib="0.001"):
    return ["--data.cache_dir", str(cache.folder), "--data.cache_gib", gib, "--epochs", "1", "--seed", "5"]


def test_a_run(server, cache, recipe, tmp_path, monkeypatch, capsys):
    """The real commands: train, evaluate, export, look; the address stays as it is."""
    run = tmp_path / "run"
    server.drop_every = 20
    assert train(recipe, server.url, run, *run_options(cache)) == 0
    assert settings.load(run / "config.yaml").data.path == server.url
    assert cli.main(["evaluate", "--run", str(run)]) == 0
    assert cli.main(["export", "--run", str(run), "--format", "torchvision"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert cli.main(["data", "info", server.url]) == 0
    said = capsys.readouterr().out
    assert f"{server.url}: 2 classes" in said and "train: 120 images" in said


def test_an_export_names_the_classes_where_it_can(server, packed, cache):
    """It does not need the data, and does not wait for it."""
    given = ["--data.path", server.url, *run_options(cache)]
    config, contents = settings.parse(settings.parser("", ""), given)[0], open_store(packed, "train").contents()
    assert export._class_names(config, contents) == ["class0", "class1"]
    assert not export._class_names(config, "of another set")
    server.die()
    start = time.monotonic()
    assert export._class_names(config, contents) == []
    assert time.monotonic() - start < 10
    server.start()


def test_a_cache_that_is_too_small_is_said_at_the_start(server, cache, recipe, tmp_path, capsys, packed):
    assert train(recipe, server.url, tmp_path / "run", *run_options(cache, "0.0002")) == 2
    said = capsys.readouterr().err
    assert f"data.cache_gib: 0.0002; a global shuffle of {server.url} needs 0.01 GiB in the cache of each host" in said
    assert "raise it, or set stream.shuffle to blocked" in said
    assert not (tmp_path / "run").exists()
