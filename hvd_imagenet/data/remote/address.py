"""Addresses of remote data sets: which are taken, what reads each, and no secrets in what is said of them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from hvd_imagenet.errors import SettingsError

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
PACKAGES |= {"http": "aiohttp", "https": "aiohttp"}
HTTP = ("http", "https")
HOST = r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(:\d+)?"


def is_url(path: str) -> bool:
    """Whether a data set is remote, and not a folder of this machine."""
    return "://" in path


def checked(url: str) -> str:
    """An address without a slash at its end.

    Raises:
        SettingsError: it holds a password or a signature, which would be written to config.yaml and to logs; or names
            of files cannot be added to it.
    """
    if "::" in re.sub(r"\[[^]]*\]", "", url):  # but [::1]
        raise SettingsError("data.path: chained protocols (::); give the address that the data set itself lies at")
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not re.fullmatch(HOST if parts.scheme in HTTP else f"({HOST})?", host) or ":" in host and "@" in parts.path:
        # A password with a slash in it looks like that, too: nothing of the address is shown.
        raise SettingsError(f"data.path: no {parts.scheme}:// address; give {parts.scheme}://HOST/FOLDER")
    if at and (":" in user or parts.scheme in HTTP):
        raise SettingsError(
            f"data.path: {without_secrets(url)}; credentials in an address would be written to the run's files; put "
            "them where the protocol's library looks for them, such as ~/.netrc for https"
        )
    if parts.query or parts.fragment:
        raise SettingsError(
            f"data.path: {without_secrets(url)}; what follows ? or # may be a secret, and names of files cannot be "
            "added to it; leave it out"
        )
    if not parts.netloc + parts.path.strip("/"):
        raise SettingsError(f"data.path: {url}; names no place; give {url}BUCKET/FOLDER")
    return url.rstrip("/")


def without_secrets(text: str) -> str:
    """A message with the user names, passwords and queries of its addresses left out; a server may redirect to such."""
    return re.sub(r"(?<=://)[^/@\s]+(?=@)|(?<=[?#])[^\s'\"<>]+", "...", text)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system that reads an address, and the path there.

    Raises:
        SettingsError: no such protocol, a package that is not installed, or settings of its own that it refuses.
    """
    import fsspec

    protocol, name = url.partition("://")[0], without_secrets(url)
    try:
        return fsspec.url_to_fs(url, **_options(protocol, fsspec.config.conf))
    except ImportError as error:
        remedy = f"run: pip install {PACKAGES[protocol]}" if protocol in PACKAGES else str(error)
        raise SettingsError(f"data.path: {name}; what reads {protocol}:// is not installed; {remedy}") from None
    except Exception as error:  # each protocol has its own, as of settings in the environment
        reason = without_secrets(" ".join(str(error).split()))
        raise SettingsError(f"data.path: {name}; cannot be read from ({reason}); is {protocol}:// right?") from None


def _options(protocol: str, configured: dict[str, Any]) -> dict[str, Any]:
    if protocol not in HTTP:
        return {}
    # As curl has it: ~/.netrc and HTTPS_PROXY count. And no compression, under which ranges mean something else.
    ours = {"trust_env": True, "headers": {"Accept-Encoding": "identity"}}
    return {"client_kwargs": {**ours, **configured.get(protocol, {}).get("client_kwargs", {})}}
