"""Requests to buckets through fsspec: with patience, and with what they refuse in a sentence. Imports no JAX."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

import fsspec

from flair_jax.errors import FlairError, OutageError, StorageError
from flair_jax.packages import how_to_install
from flair_jax.refusals import EXTRAS, NO_BUCKET, in_a_line, is_of_client, refusal

_Answer = TypeVar("_Answer")

# Seconds between tries of what may pass, besides the clients' own: half a minute (gcsfs) or a few seconds (s3fs) each.
_DELAYS = (1, 2, 4, 8, 16, 32)
# Faults of this machine's disk, where an object is fetched to.
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def is_url(path: object) -> bool:
    """Whether a path leads to a bucket or the like, rather than to a disk of this machine."""
    return "://" in str(path) and not str(path).startswith("file://")


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a path or URL, and its path there.

    Raises:
      StorageError: if there is none, or its package is not installed.
    """
    # A relative path leads elsewhere when the working folder has changed, as it does in notebooks.
    return _filesystem(url, "" if is_url(url) or os.path.isabs(url) else os.getcwd())


@functools.lru_cache(maxsize=4096)
def _filesystem(url: str, _cwd: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(url.partition("://")[0])
        raise StorageError(f"{url}: {error}" + (f"; {how_to_install(extra)}" if extra else "")) from None
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from None
    except Exception as error:  # clients look for credentials when they are made
        raise StorageError(f"{url}: {refusal(url, error) or in_a_line(error)}") from error
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
      OSError: if the disk of this machine is at fault.
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
            if not is_of_client(error) and (not isinstance(error, OSError) or error.errno in _OF_DISK):
                raise
            if reason := refusal(url, error):
                raise StorageError(f"{url}: {reason}") from error
            if delay is None:
                raise OutageError(f"{url}: does not answer ({in_a_line(error)}); start again once it does") from error
            logging.warning("%s: does not answer (%s); asked again in %d s", url, in_a_line(error), delay)
            time.sleep(delay)
    raise AssertionError("unreachable")


def _require_bucket(url: str) -> None:
    """Raises StorageError if the bucket itself is missing; says nothing where that may not be asked."""
    if url.partition("://")[0] not in EXTRAS:
        return
    files, path = filesystem(url)
    bucket = path.lstrip("/").partition("/")[0]
    try:
        files.info(bucket)
    except FileNotFoundError:
        raise StorageError(f"{url}: {NO_BUCKET}") from None
    except Exception:  # whatever it is, the file is missing
        return


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

    def readall(self) -> bytes:
        """The rest of it, by one request."""
        return self._next(self._size - self._place)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills the buffer, or as much of it as there is, and returns how many bytes that is."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, count: int) -> bytes:
        """At most so many bytes from the present place, and moves behind them."""
        end = min(self._place + count, self._size)
        if end <= self._place:
            return b""
        data: bytes = ask(self._url, lambda: self._files.cat_file(self._path, start=self._place, end=end))
        self._place += len(data)
        return data
