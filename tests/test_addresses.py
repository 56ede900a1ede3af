"""Addresses of remote data sets: which are taken, and what reads them; no secret is shown."""

import sys

import pytest
from fsspec.registry import _registry as known_file_systems
from runs import train

from hvd_imagenet.data.remote import address
from hvd_imagenet.data.store import open_store
from hvd_imagenet.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://user:s3cret@host/set", "https://...@host/set; credentials in an address would be written"),
        ("https://s3cret@host/set", "https://...@host/set; credentials"),
        ("https://user:s3cr/s3cret@host/set", "no https:// address; give https://HOST/FOLDER"),
        ("s3://key:s3cret@bucket/set", "s3://...@bucket/set; credentials"),
        ("https://host/set?X-Amz-Signature=s3cret", "https://host/set?...; what follows ? or # may be a secret"),
        ("https://host/set#s3cret", "https://host/set#...; what follows"),
        ("simplecache::https://user:s3cret@host/set", "chained protocols (::); give the address that the data set"),
        ("s3://bucket/set::https://user:s3cret@host", "chained protocols (::)"),
        ("s3://key:s3c/s3cret@bucket/set", "no s3:// address; give s3://HOST/FOLDER"),
        ("ftp://user:123/s3cret@host/set", "no ftp:// address; give ftp://HOST/FOLDER"),
        ("sftp://user:s#s3cret@host/set", "no sftp:// address; give sftp://HOST/FOLDER"),
        ("s3://", "s3://; names no place; give s3://BUCKET/FOLDER"),
    ],
)
def test_addresses_that_are_refused(url, said):
    with pytest.raises(SettingsError) as refused:
        address.checked(url)
    assert str(refused.value).startswith(f"data.path: {said}") and "s3cret" not in str(refused.value)


def test_no_secrets_in_a_run(recipe, tmp_path, capsys):
    assert train(recipe, "https://user:s3cret@host/set", tmp_path / "run") == 2
    said = "".join(capsys.readouterr())
    assert "data.path: https://...@host/set; credentials" in said and "s3cret" not in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_secrets_in_errors():
    hidden = address.without_secrets("at 'https://me:pw@cdn/x?Signature=abc&Expires=1', and http://proxy:1/y, gave up?")
    assert hidden == "at 'https://...@cdn/x?...', and http://proxy:1/y, gave up?"


@pytest.mark.parametrize("url", ["http://[::1]:8000/set", "https://host/a@b", "sftp://host:22/set", "file:///a/b"])
def test_addresses_that_are_taken(url):
    assert address.checked(url) == address.checked(f"{url}/") == url


def test_an_address_with_a_user_is_no_secret():
    assert address.checked("abfs://container@account.dfs.core.windows.net/set/") == (
        "abfs://container@account.dfs.core.windows.net/set"
    )


@pytest.mark.parametrize(("protocol", "package"), [("gs", "gcsfs"), ("hf", "huggingface_hub"), ("s3", "s3fs")])
def test_a_package_that_is_missing(protocol, package, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(known_file_systems, protocol, raising=False)
    with pytest.raises(SettingsError, match=f"{protocol}://bucket/set; .* not installed; run: pip install {package}$"):
        open_store(f"{protocol}://bucket/set", "train", cache)


def test_the_package_is_missing(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingsError, match=r"need the package fsspec; run: pip install 'hvd_imagenet\[remote\]'"):
        open_store("https://host/set", "train", cache)


def test_a_secret_is_not_shown_where_the_package_is_missing(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingsError) as refused:
        open_store("ftp://user:p/s3cret@host/set", "train", cache)
    assert "s3cret" not in str(refused.value)


def test_a_protocol_that_is_none(cache):
    with pytest.raises(SettingsError, match="data.path: htps://host/set; .*Protocol not known: htps.*is htps:// right"):
        open_store("htps://host/set", "train", cache)
