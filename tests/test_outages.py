"""Outages and slow links: what is borne with, for how long, and that one error ends all that wait."""

import fcntl
import json
import os
import re
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from errno import EINVAL
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from aiohttp import ClientConnectorCertificateError, ClientConnectorSSLError, ClientResponseError
from aiohttp.http_exceptions import BadStatusLine
from botocore.exceptions import ClientError, ParamValidationError
from remote_sets import GREY, SAMPLES, everything, files_in, until
from tenacity import wait_fixed

from hvd_imagenet.data.loader import evaluation_batches
from hvd_imagenet.data.remote import fetching as remote
from hvd_imagenet.data.remote.cache import Cache
from hvd_imagenet.data.remote.caching import Caching, Patience
from hvd_imagenet.data.remote.failures import is_hopeless
from hvd_imagenet.data.remote.reading import Progress, Reading
from hvd_imagenet.data.requests import Worker
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import DataError

LONG = Patience(give_up=120, limit=60)


def test_a_server_that_dies_and_comes_back(server, packed, cache, monkeypatch, capsys):
    monkeypatch.setattr(remote, "QUIET_SECONDS", 0.1)
    store = open_store(server.url, "train", cache)
    server.die()
    threading.Timer(1, server.start).start()
    assert bytes(store.read([0])[0]) == bytes(open_store(packed, "train").read([0])[0])
    said = capsys.readouterr().err
    assert said.count("\n") == 1  # once in an outage
    warning = r"warning: http://127.*/train/shard-000000.tar: cannot be read \(.+\); trying again for up to 20 s\n"
    assert re.fullmatch(warning, said)


def test_a_server_that_stays_away(server, tmp_path):
    patient = Patience(give_up=0.5, limit=5, pause=0.05, longest_pause=0.1)
    store = open_store(server.url, "train", Caching(tmp_path / "cache", 2**20, patient))
    server.die()
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"http://.*/train/shard-000000.tar: cannot be read .*; tried \d+ times, with nothing for [01]"
    ):
        store.read([0])
    assert 0.5 <= time.monotonic() - start < 3
    server.start()


def test_a_server_that_hangs(server, packed, cache, tmp_path):
    patient = Patience(give_up=1.2, limit=0.4, pause=0.05, longest_pause=0.1)
    store = open_store(server.url, "train", Caching(tmp_path / "cache", 2**20, patient))
    server.gate.clear()
    with pytest.raises(DataError, match=r"cannot be read \(no answer in time\)"):
        store.read([0])
    threading.Timer(0.3, server.gate.set).start()
    assert everything(open_store(server.url, "train", cache)) == everything(open_store(packed, "train"))


def test_an_outage_is_borne_with_once(server, tmp_path, packed):
    """Where a shard has been given up, the next needs no patience of its own, until something has come again."""
    patient = Patience(give_up=0.5, limit=5, pause=0.05, longest_pause=0.1)
    store = open_store(server.url, "train", Caching(tmp_path / "cache", 2**20, patient))
    server.die()
    for shard, tries in ((0, r"\d\d?"), (1, "1")):
        with pytest.raises(DataError, match=f"tried {tries} times"):
            store._files.open(shard)
    server.start()
    os.close(store._files.open(0))
    server.die()
    with pytest.raises(DataError, match=r"tried ([2-9]|\d\d) times"):
        store._files.open(1)
    server.start()


def test_a_bad_network_is_no_outage(server, tmp_path, monkeypatch):
    """As long as something comes, a fetch goes on, however often it fails and however long it takes."""
    monkeypatch.setattr(remote, "RANGE_BYTES", 100)
    store = open_store(server.url, "train", Caching(tmp_path / "cache", 2**20, Patience(0.5, 5, 0.05, 0.1)))
    server.drop_every = 3
    os.close(store._files.open(0))
    assert server.requests["train/shard-000000.tar"] > 300


class Hanging(fsspec.AbstractFileSystem):
    """A protocol without time limits of its own, whose first read hangs."""

    protocol = "hanging"
    cachable = False
    hangs = [True]

    def cat_file(self, path, start=None, end=None, **_):
        if self.hangs.pop():
            threading.Event().wait(60)
        return Path(path.removeprefix("hanging://")).read_bytes()[start:end]


def test_a_protocol_that_hangs_is_left_behind(tmp_path):
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    (tmp_path / "file").write_bytes(b"contents")
    Hanging.hangs = [False, True]
    assert remote.Remote(f"hanging://{tmp_path}", Patience(20, 0.2, 0.02)).read("file") == b"contents"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_answers_that_may_change(server, cache, status):
    server.status = status
    threading.Timer(0.3, lambda: setattr(server, "status", 200)).start()
    assert len(open_store(server.url, "train", cache)) == SAMPLES
    assert server.requests["dataset.json"] > 1


@pytest.mark.parametrize(
    ("stall", "give_up", "limit", "longest"),
    [(600, 200, 20, 20), (60, 20, 5, 2), (30, 10, 2.5, 1), (None, 3600, 20, 30)],
)
def test_patience_ends_before_a_stall(stall, give_up, limit, longest):
    patience = Patience.within(stall)
    assert (patience.give_up, patience.limit, patience.longest_pause) == (give_up, limit, longest)
    assert patience.longest == give_up + longest + give_up / 4 and patience.pause <= longest
    assert stall is None or 2 * patience.longest < stall


def test_the_limits_of_tries_grow():
    assert [Patience(200, 20).limit_of(attempt) for attempt in (1, 2, 3, 99)] == [20, 40, 50, 50]


def test_one_error_ends_all_readers(server, tmp_path, monkeypatch):
    """One waits for its next try, another one finds that its shard is gone."""
    monkeypatch.setattr(remote, "wait_random_exponential", lambda *_: wait_fixed(100))
    store = open_store(server.url, "train", Caching(tmp_path / "cache", 2**20, LONG))
    store.expect(iter(()), 10)
    server.status = 503
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(store._files.open, 0)
        until(lambda: store._files._remote._outage)
        server.status = 404
        for gone in (lambda: store._files.open(1), lambda: waiting.result(20)):
            with pytest.raises(DataError, match="shard-000001.tar: is not there"):
                gone()
    end = store.expect(iter(()), 10)  # with which all is new
    server.status = 200
    os.close(store._files.open(0))
    end()


@pytest.mark.parametrize("taken", [False, True])
def test_a_loader_is_closed_at_once_in_an_outage(server, tmp_path, taken):
    """Also while the training waits for a batch."""
    cache = Caching(tmp_path / "cache", 2**20, LONG)
    store = open_store(server.url, "train", cache)
    server.gate.clear()
    batches = evaluation_batches(store, 8, Worker(0, 1), GREY)

    def take():
        with suppress(DataError):
            next(batches, None)

    waiting = threading.Thread(target=take, daemon=True)
    if taken:
        waiting.start()
    until(lambda: any(name.endswith(".partial") for name in files_in(cache)))
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "decode"))]
    if taken:
        waiting.join(20)
        assert not waiting.is_alive()


def test_waits_for_room_and_for_another_reader_end_with_the_reading(tmp_path):
    cache, reading = Cache(Caching(tmp_path, 100, LONG)), Reading()
    os.close(cache.open("kept", 60, lambda *_: None, reading))
    cache.claim().set(["kept"])
    with cache.path("other.partial").open("wb") as other, ThreadPoolExecutor() as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        kept = cache.claim()
        kept.set(["kept"])
        waits = [pool.submit(cache.open, key, 50, lambda *_: None, reading) for key in ("new", "other")]
        time.sleep(0.3)
        assert not any(wait.done() for wait in waits)
        reading.end(DataError("the first error"))
        reading.end(DataError("a later one"))
        for wait in waits:
            with pytest.raises(DataError, match="the first error"):
                wait.result(20)


def test_another_reader_that_gets_nothing_is_not_waited_for(tmp_path):
    cache = Cache(Caching(tmp_path, 100, Patience(give_up=0.2, limit=0.05, longest_pause=0.02)))
    with cache.path("key.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="key: has been waited for 0 s, without anything coming"):
            cache.open("key", 10, lambda *_: None, Reading())


def test_the_time_with_another_reader_counts(tmp_path):
    """Where it has got nothing: the one after it has had its patience."""
    cache, told = Cache(Caching(tmp_path, 100, LONG)), []
    with cache.path("key.partial").open("wb") as other, ThreadPoolExecutor() as pool:
        fcntl.flock(other, fcntl.LOCK_EX)
        start = time.monotonic()
        opened = pool.submit(cache.open, "key", 10, lambda _, since: told.append(since), Reading())
        time.sleep(0.5)
        fcntl.flock(other, fcntl.LOCK_UN)
        os.close(opened.result(20))
    assert told[0] < start + 0.4


def test_progress_is_what_is_written():
    progress = Progress()
    times = []
    for stamp in (5, 0, 0, 7, 7, 9, 0):
        before = progress.since
        progress.look(stamp)
        times.append(progress.since > before)
    assert times == [False, False, False, True, False, True, False]


class Narrow(fsspec.AbstractFileSystem):
    """A link that brings no more than so many bytes in time; and what it was asked for."""

    protocol = "narrow"
    cachable = False
    most, asked = 0, []

    def cat_file(self, path, start=None, end=None, **_):
        Narrow.asked.append(end - start)
        if end - start > Narrow.most:
            raise TimeoutError
        return Path(path.removeprefix("narrow://")).read_bytes()[start:end]


def test_a_slow_link_is_asked_for_less(tmp_path, monkeypatch):
    """Half of what did not come in time, and twice of what came fast; 2,000 bytes is what is left at the end."""
    fsspec.register_implementation("narrow", Narrow, clobber=True)
    monkeypatch.setattr(remote, "RANGE_BYTES", 8000)
    monkeypatch.setattr(remote, "LEAST_BYTES", 500)
    monkeypatch.setattr(remote, "PARALLEL", 1)
    (tmp_path / "file").write_bytes(bytes(10_000))
    link = remote.Remote(f"narrow://{tmp_path}", Patience(20, 5, 0.001, 0.002))
    shard = SimpleNamespace(name="file", bytes=10_000, sha256=sha256(bytes(10_000)).hexdigest())
    Narrow.most, Narrow.asked = 1900, []
    with (tmp_path / "copy").open("w+b") as copy:
        link.fetch(shard, Reading(), copy.fileno(), time.monotonic())
    assert Narrow.asked[:5] == [8000, 2000, 1000, 2000, 1000]
    assert (tmp_path / "copy").read_bytes() == bytes(10_000)


def caused(error, cause):
    error.__cause__ = cause
    return error


ALERT, REFUSED = ssl.SSLError(1, "internal error"), ssl.SSLCertVerificationError(1, "self-signed")
HOST = SimpleNamespace(host="host", port=443, ssl=True, is_ssl=True)
ASKED = SimpleNamespace(real_url="https://host/x", method="GET")


@pytest.mark.parametrize(
    ("error", "hopeless"),
    [
        (ALERT, False),
        (caused(ClientConnectorSSLError(HOST, ALERT), ALERT), False),
        (REFUSED, True),
        (caused(ClientConnectorCertificateError(HOST, REFUSED), REFUSED), True),
        (caused(ClientResponseError(ASKED, (), status=400), BadStatusLine("garbage")), False),
        (ClientResponseError(ASKED, (), status=400), True),
        (ClientResponseError(ASKED, (), status=503), False),
        (json.JSONDecodeError("not JSON", "<html>", 0), False),
        (ValueError("of any other kind"), True),
        (caused(OSError(EINVAL, "cut"), ClientError({"Error": {"Code": "IncompleteBody"}}, "GetObject")), False),
        (caused(OSError(EINVAL, "no"), ClientError({"Error": {"Code": "InvalidArgument"}}, "GetObject")), True),
        (ParamValidationError(report="Invalid bucket name"), True),
        (ConnectionResetError(), False),
        (PermissionError(), True),
    ],
)
def test_which_errors_are_worth_another_try(error, hopeless):
    assert is_hopeless(error) == hopeless
