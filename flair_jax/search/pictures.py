"""The pictures of a folder. Imports no JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from flair_jax.errors import DatasetError

# What Pillow opens without help, by the endings of files; all else in a folder is passed over.
PICTURE_ENDINGS = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Picture(NamedTuple):
    """A picture to index, as it was found.

    Attributes:
      name: its path in the table of the index.
      path: where to read it.
      size: bytes.
      mtime_ns: time of the last change.
    """

    name: str
    path: str
    size: int
    mtime_ns: int


def find_pictures(folder: Path) -> tuple[list[Picture], list[str]]:
    """All pictures in a folder and its sub-folders in order of their names, and messages about unusable names.

    Hidden files and folders are passed over, and links to folders are not followed.

    Raises:
      DatasetError: if there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; name a folder of pictures")
    found, broken = [], []

    def fail(error: OSError) -> None:  # what cannot be listed must not be taken for removed
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.startswith(".") or not file.lower().endswith(PICTURE_ENDINGS):
                continue
            path = os.path.join(place, file)
            try:
                name = os.path.relpath(path, folder)
                name.encode()
                found.append(picture_at(name, path))
            except UnicodeEncodeError:
                broken.append(f"{path!a}: the file's name is not UTF-8; rename it")
            except FileNotFoundError:
                broken.append(f"{path}: a link to nothing, or removed just now")
    if not found:
        raise DatasetError(f"{folder}: no pictures in it or below; their names end in {', '.join(PICTURE_ENDINGS)}")
    return found, broken


def picture_at(name: str, path: str) -> Picture:
    """One picture with its size and time; raises OSError."""
    status = os.stat(path)
    return Picture(name, path, status.st_size, status.st_mtime_ns)
