"""Paths of users, and files and folders that appear whole or not at all. Imports no JAX."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flair_jax.errors import ConfigError


def expand(path: str | Path) -> Path:
    """A path with `~` as the home folder.

    Raises:
      ConfigError: if it starts with `~` and that folder is not known, as for users that only have a number.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: it is not known which folder ~ is; set HOME, or write it out") from None


@contextlib.contextmanager
def replace_when_complete(path: str | Path) -> Iterator[Path]:
    """Gives a name beside `path` to write a file or folder to, and renames it to `path` if the block succeeds.

    A killed program leaves nothing under `path` that was not there before; the next call clears what it left beside it,
    and nothing that another process is at. Of several processes the last one's file stays.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for leftover in path.parent.glob(glob.escape(prefix) + "*"):
        with contextlib.suppress(PermissionError), _lock_of(leftover) as is_mine:  # another user's stays
            if is_mine:
                shutil.rmtree(leftover, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
            if stack.enter_context(_lock_of(folder)):
                break  # otherwise another process clears it, for it was not locked yet
        try:
            partial = folder / path.name
            yield partial
            # A folder cannot be renamed over another, so the old one steps aside.
            if partial.is_dir() and path.is_dir():
                os.rename(path, folder / "replaced")
            os.replace(partial, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock_of(folder: Path) -> Iterator[bool]:
    """Locks a folder while the block lasts, if it is there and no other process has it; tells whether that is so.

    The lock ends with its process, however that ends. A disk that knows no locks is taken for one where none is held.
    """
    name = folder / ".lock"
    try:
        file = name.open("w")
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno == errno.EACCES:  # held, over NFS
                yield False
                return
        yield name.exists()
