"""Which failures of a network are worth another try, and what is said of them."""

from __future__ import annotations

import errno
import json
import ssl

from hvd_imagenet.data.remote import address

TOO_EARLY = (408, 425, 429)  # of HTTP's 4xx, those that may do better the next time
HOPELESS = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError)
HOPELESS_ERRNO = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG)  # as s3fs has HTTP's 4xx
HOPELESS_NAMES = ("Credential", "ParamValidation", "NoRegion")  # botocore's, which are of no common type


def is_hopeless(error: BaseException) -> bool:
    """Whether to try again would be in vain: the answer is about the file or the right to read it."""
    if _refuses_certificate(error):
        return True
    if _is_garbled(error):
        return False
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in TOO_EARLY
    if isinstance(error, HOPELESS) or any(name in type(error).__name__ for name in HOPELESS_NAMES):
        return True
    if isinstance(error, OSError):
        return error.errno in HOPELESS_ERRNO
    return type(error).__module__ == "builtins"  # a mistake: the libraries' own are of the network


def hopeless_reason(error: BaseException) -> str:
    denied = isinstance(error, PermissionError) or _status(error) in (401, 403)
    if denied or "Credential" in type(error).__name__:
        return f"access is denied ({in_short(error)}); give credentials where the protocol's library looks for them"
    return f"cannot be read ({in_short(error)})"


def in_short(error: BaseException) -> str:
    """An error in one line."""
    text = address.without_secrets(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _refuses_certificate(error: BaseException) -> bool:
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in (error, error.__cause__))


def _is_garbled(error: BaseException) -> bool:
    """Whether it is about an answer that was cut or mixed up on its way, though it looks like a refusal.

    An `ssl.SSLError` has OpenSSL's numbers where others have the system's; aiohttp makes a status 400 of what is no
    HTTP at all; of a body cut short S3 says 400, too; and an error page is no JSON.
    """
    cause = error.__cause__
    if any(isinstance(each, ssl.SSLError | json.JSONDecodeError) for each in (error, cause)):
        return True
    response = getattr(cause, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return type(cause).__module__ == "aiohttp.http_exceptions" or code == "IncompleteBody"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, wherever its library puts it."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if str(found := getattr(holder, name, None)).isdigit():
                return int(found)
    return None
