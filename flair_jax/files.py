"""Paths of users, and files and folders that appear whole or not at all. Imports no JAX."""

from __future__ import annotations

import contextlib
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

    A killed program leaves nothing under `path` that was not there before; the next call clears what it left beside it.

    Raises:
      ConfigError: if a file was written, and `path` is a folder, which stays.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.partial-"
    for leftover in path.parent.glob(glob.escape(prefix) + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    try:
        partial = folder / path.name
        yield partial
        if path.is_dir() and not partial.is_dir():
            raise ConfigError(f"{path}: is a folder, not a file to replace; name another")
        if path.is_dir():  # a folder cannot be renamed over another, so the old one steps aside
            os.rename(path, folder / "replaced")
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
