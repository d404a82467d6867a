"""Pictures in a folder and below. Imports no JAX."""

from __future__ import annotations

import os
from pathlib import Path

from flair_jax.buckets import is_remote, list_files
from flair_jax.data.names import is_hidden, is_picture


def pictures_below(folder: Path) -> tuple[list[Path], int]:
    """Files named as pictures, in order, and how many files and folders were passed over; in a bucket, likewise.

    Passed over are hidden ones, links to folders, files with other extensions, and what is not a file, such as a pipe.
    A broken link counts as a picture, so that opening it reports what is missing.

    Raises:
      OSError: if a folder cannot be listed.
    """
    if is_remote(folder):
        names = list_files(folder)
        kept = [name for name in names if is_picture(name) and not any(map(is_hidden, name.split("/")))]
        return sorted(folder / name for name in kept), len(names) - len(kept)
    pictures: list[Path] = []
    passed_over = 0
    places = [os.fspath(folder)]
    while places:
        with os.scandir(places.pop()) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    passed_over += 1
                elif entry.is_dir(follow_symlinks=False):
                    places.append(entry.path)
                elif is_picture(entry.name) and _may_be_file(entry):
                    pictures.append(Path(entry.path))
                else:
                    passed_over += 1
    return sorted(pictures), passed_over


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path) or not os.path.exists(entry.path)
