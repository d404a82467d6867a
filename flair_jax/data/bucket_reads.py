"""Reads from buckets through fsspec: with patience, and with what they refuse in a sentence. Imports no JAX."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import fsspec

from flair_jax.errors import FlairError, OutageError, StorageError
from flair_jax.packages import how_to_install

_Answer = TypeVar("_Answer")

# Seconds between tries of what may pass, besides the clients' own: half a minute (gcsfs) or a few seconds (s3fs) each.
_DELAYS = (1, 2, 4, 8, 16, 32)
_MAY_PASS = {408, 429, *range(500, 600)}  # HTTP's statuses: too slow, too often, and the server's own errors
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_CLIENTS = {"aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3"}
_NO_CREDENTIALS = {
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
}
_REFUSED_CREDENTIALS = ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
_HOW_TO_LOG_IN = {
    "gcs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
    "s3": "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


def is_url(path: object) -> bool:
    """Whether a path leads to a bucket or the like, rather than to a disk of this machine."""
    return "://" in str(path) and not str(path).startswith("file://")


@functools.lru_cache(maxsize=4096)
def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a path or URL, and its path there.

    Raises:
      StorageError: if there is none, or its package is not installed.
    """
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(url.partition("://")[0])
        raise StorageError(f"{url}: {how_to_install(extra) if extra else error}") from None
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from None
    except Exception as error:  # clients look for credentials when they are made
        raise StorageError(f"{url}: {_refusal(url, error) or _in_a_line(error)}") from error
    # Others write there, too; and s3fs denies files that have come since it listed their folder.
    files.dircache.use_listings_cache = False
    files.invalidate_cache()
    return files, path


def ask(url: str, question: Callable[[], _Answer]) -> _Answer:
    """The answer of a bucket to a request, which is repeated, with growing delays, after failures that may pass.

    Such are 429, 5xx and broken connections.

    Args:
      url: what is asked for, for messages.
      question: makes the request; it may be made twice, where only the first answer was lost.

    Raises:
      FileNotFoundError: if it is not there, though the bucket is.
      FileExistsError: if the request was not to replace what is there.
      StorageError: if there is no such bucket, or it refuses.
      OutageError: if it has not answered for minutes.
    """
    for delay in (*_DELAYS, None):
        try:
            return question()
        except FileNotFoundError as error:
            _require_bucket(url)
            raise FileNotFoundError(error.errno, "no such file", url) from error
        except (FileExistsError, FlairError):
            raise
        except Exception as error:  # each client has its own, and not all are OSErrors
            if type(error).__module__.split(".")[0] not in _CLIENTS and not isinstance(error, OSError):
                raise
            if reason := _refusal(url, error):
                raise StorageError(f"{url}: {reason}") from error
            if delay is None:
                raise OutageError(f"{url}: does not answer ({_in_a_line(error)}); start again once it does") from error
            logging.warning("%s: does not answer (%s); asked again in %d s", url, _in_a_line(error), delay)
            time.sleep(delay)
    raise AssertionError("unreachable")


def _require_bucket(url: str) -> None:
    """Raises StorageError if the bucket itself is missing; says nothing where that may not be asked."""
    if url.partition("://")[0] not in _EXTRAS:
        return
    files, path = filesystem(url)
    bucket = path.lstrip("/").partition("/")[0]
    try:
        files.info(bucket)
    except FileNotFoundError:
        raise StorageError(f"{url}: there is no bucket {bucket}; correct the name") from None
    except Exception:  # whatever it is, the file is missing
        return


def _refusal(url: str, error: BaseException) -> str | None:
    """Why a bucket will not answer, however often it is asked, and what to do; None if it may."""
    log_in = _HOW_TO_LOG_IN.get(_EXTRAS.get(url.partition("://")[0], ""), "log in")
    for cause in _causes(error):
        status, text = _status(cause), str(cause)
        if type(cause).__name__ in _NO_CREDENTIALS or "Anonymous caller" in text:
            return f"there are no credentials for it; {log_in}"
        if status == 401 or any(each in text for each in _REFUSED_CREDENTIALS) or _is_refresh(cause):
            return f"the credentials are refused; {log_in}"
        if status == 403 or isinstance(cause, PermissionError) or text.startswith("Forbidden: "):
            return "is forbidden to you; ask the owner of the bucket for the permission, or use another account"
        if (400 <= status < 500 and status not in _MAY_PASS) or text.startswith("Bad Request: "):
            return f"the request is refused ({_in_a_line(cause)})"
    return None


def _is_refresh(error: BaseException) -> bool:
    """Whether Google refuses to renew an account's token; that its server does not answer may pass."""
    return type(error).__name__ == "RefreshError" and not getattr(error, "retryable", False)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int:
    """HTTP's status in an error of gcsfs, aiohttp or botocore; 0 if there is none."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for value in (found, getattr(error, "status", None), getattr(error, "code", None)):
        with contextlib.suppress(TypeError, ValueError):
            return int(value)  # type: ignore[arg-type]
    return 0


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:200]


class BucketFile(io.RawIOBase):
    """A file in a bucket, read by ranges; wrap it in `io.BufferedReader`, each of whose fillings is one request."""

    def __init__(self, url: str) -> None:
        """Asks for its size; raises what `ask` does."""
        self._url = url
        self._files, self._path = filesystem(url)
        self._size = int(ask(url, lambda: self._files.info(self._path))["size"])
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a place, which may lie beyond the end, and returns it."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """The place in bytes from the beginning."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills the buffer, or as much of it as there is, and returns how many bytes that is."""
        end = min(self._place + len(buffer), self._size)
        if end <= self._place:
            return 0
        data = ask(self._url, lambda: self._files.cat_file(self._path, start=self._place, end=end))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
