"""Files that grow while a run is at work, on disks and in buckets. Imports no JAX."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Protocol

from flair_jax.buckets import is_remote
from flair_jax.files import replace_when_complete


class Appended(Protocol):
    """A file that grows."""

    def write(self, data: bytes) -> bool:
        """Adds bytes; returns whether it had been removed or replaced meanwhile, and was opened anew."""

    def upload(self) -> None:
        """Returns once all that was written is where it belongs."""

    def close(self) -> None:
        """Uploads the rest, and ends."""


def open_appended(path: Path) -> Appended:
    """A file to add to. In a bucket nothing can be added to an object, so it is kept in memory and written whole."""
    return _InBucket(path) if is_remote(path) else _OnDisk(path)


class _OnDisk:
    """Written at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "ab")  # noqa: SIM115
        self._folder = os.stat(path.parent)

    def write(self, data: bytes) -> bool:
        if not os.path.samestat(os.stat(self._path.parent), self._folder):  # it would go into a removed file
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        removed = self._is_removed()
        if removed:
            self._file.close()
            self._file = open(self._path, "ab")  # noqa: SIM115
        self._file.write(data)
        self._file.flush()
        return removed

    def _is_removed(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True

    def upload(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()


class _InBucket:
    """Written whole by `upload`, whichever thread calls it."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._content = bytearray(path.read_bytes() if path.exists() else b"")
        self._uploaded = len(self._content)

    def write(self, data: bytes) -> bool:
        self._content += data
        return False

    def upload(self) -> None:
        with self._lock:
            content = bytes(self._content)
            if len(content) != self._uploaded:
                with replace_when_complete(self._path) as partial:
                    partial.write_bytes(content)
                self._uploaded = len(content)

    def close(self) -> None:
        self.upload()
