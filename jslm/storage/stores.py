"""What is to be known of the stores' libraries: how each is opened, tells a version, and fails; and trying again.

fsspec has one way of reading and writing, but each file system keeps the errors and the words of its own library. Both
`Objects` and the readers of text go through here.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from jslm.console import say
from jslm.errors import JslmError
from jslm.extras import load_extra

T = TypeVar("T")
# With waits of 1, 2, 4, ... seconds between them: a minute.
TRIES = 7
_FIRST_WAIT = 1.0
_GOOGLE = ("gs", "gcs")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
# Tries are told apart from here; a library that tries for minutes by itself hides that the network is gone.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}},
}
# What changes with the content, as fsspec's file systems name it: the web, S3, Google, the Hugging Face Hub.
_VERSION_KEYS = ("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "generation", "blob_id")
# Of the statuses that say that a request is wrong, those that say "later": time-outs, conflicts, too many at once.
_LATER = (408, 409, 425, 429)
_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_NO_LOGIN = ("NoCredentialsError", "DefaultCredentialsError")


class StorageError(JslmError):
    """A store that can't be reached or refuses. `is_lasting`: trying again will not help."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


def file_system(address: str, what: str, extra: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it; nothing is asked of the store yet.

    Raises JslmError, which `what` begins, for a scheme that is unknown, or whose package is absent: `extra` has fsspec.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in _GOOGLE:
        # What gcsfs has for zonal and hierarchical buckets asks about each bucket first; objects need none of it.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    fsspec = load_extra("fsspec", extra, what)
    try:
        system, path = fsspec.core.url_to_fs(address, **_OPTIONS.get(scheme, {}))
    except ImportError as error:
        if scheme not in _PACKAGES:
            raise JslmError(f"{what} needs a package that is not installed: {one_line(error)}") from None
        load_extra(_PACKAGES[scheme], "data" if scheme.startswith("http") else "cloud", what)
        raise
    except Exception as error:
        raise JslmError(f"{what}: {one_line(error)}; expected something like s3://…, gs://… or https://…") from None
    if scheme in _GOOGLE:
        _leave_trying_to_us(system)
    # s3fs tries five times by itself.
    system.retries = 1
    return system, path


def _leave_trying_to_us(system: Any) -> None:
    """gcsfs tries six times in half a minute by itself, which it has no setting for, and logs a traceback then."""
    retry_request = load_extra("gcsfs.retry", "cloud", "Google's store").retry_request
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    for name in ("_request", "_get_file_request", "_get_file_concurrent"):
        once = retry_request(retries=1)(inspect.unwrap(getattr(type(system), name)))
        setattr(system, name, types.MethodType(once, system))


def content_version(info: Mapping[str, Any]) -> str:
    """What a store says of an object that changes with its content, "" for nothing; weak ETags promise less."""
    said = {key: str(info[key]) for key in _VERSION_KEYS if info.get(key)}
    return " ".join(f"{key}={value}" for key, value in said.items() if not value.startswith("W/"))


def patiently(action: Callable[[], T], tries: int | None = None) -> T:
    """The result of `action`, which is tried up to `tries` times (TRIES), after 1, 2, 4, ... seconds, where it raises a
    StorageError that passes; that is said once. Raises the last one; at once one that lasts."""
    tries = TRIES if tries is None else tries
    for attempt in range(tries - 1):
        try:
            return action()
        except StorageError as error:
            if error.is_lasting:
                raise
            if not attempt:
                say(f"{error}; trying again")
            time.sleep(_FIRST_WAIT * 2**attempt)
    return action()


def failure(error: Exception, what: str) -> StorageError:
    """The StorageError, which `what` begins, for an exception of a store's library."""
    lasting = is_lasting(error)
    if isinstance(error, FileNotFoundError):
        # fsspec says so of all that fails on the web; what happened is its cause.
        said = f"not there ({one_line(error)})" if lasting else one_line(error.__cause__ or error)
    elif isinstance(error, PermissionError) or _status(error) == 403:
        said = f"not open to you ({one_line(error)})"
    else:
        said = one_line(error)
    if type(error).__name__ in _NO_LOGIN:
        said += "; log in to the store on this machine (docs/cloud.md)"
    return StorageError(f"{what}: {said}", is_lasting=lasting)


def is_lasting(error: BaseException) -> bool:
    """Whether a store's answer stays what it is: not there, not allowed, not understood. What tells nothing passes."""
    if status := _status(error):
        return 400 <= status < 500 and status not in _LATER
    if isinstance(error, FileNotFoundError):
        return all(isinstance(cause, FileNotFoundError | LookupError) for cause in _causes(error))
    return type(error).__name__ in _NO_LOGIN or isinstance(error, _LASTING)


def one_line(error: BaseException | None) -> str:
    """An exception's kind and the beginning of what it says."""
    text = " ".join(str(error).split())[:200].strip(" ,")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int:
    """The HTTP status that an exception or one of its causes was made from; 0 where none tells."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            # botocore's. Amazon's RequestTimeout comes as a 400.
            if response.get("Error", {}).get("Code") == "RequestTimeout":
                return 408
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            # aiohttp's, gcsfs's, and that of requests and httpx.
            found = getattr(cause, "status", None) or getattr(cause, "code", None)
            found = found or getattr(response, "status_code", None)
        if str(found).isdigit():
            return int(str(found))
        if str(cause).startswith("Forbidden: "):
            # gcsfs keeps the words alone.
            return 403
    return 0
