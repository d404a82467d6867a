"""The pictures of a folder. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses
import os
import stat
from pathlib import Path
from typing import NamedTuple

from flair_jax.buckets import is_remote, list_objects
from flair_jax.data.formats import what_is
from flair_jax.data.names import PICTURE_ENDINGS, is_hidden, is_picture
from flair_jax.errors import DatasetError, is_utf8, printable


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


@dataclasses.dataclass
class Found:
    """What lies in a folder and its sub-folders.

    Attributes:
      pictures: in the order of their names, those of a folder before those of its sub-folders.
      unusable: messages about files named as pictures, and folders, that were passed over.
      unseen: names of pictures and folders that could not be accessed just now, so that their contents are not known.
      others: number of files not named as pictures, by extension; "hidden" for names that begin with a dot.
      repeated: how often a picture was named again, where several are named; it is in `pictures` once.
    """

    pictures: list[Picture] = dataclasses.field(default_factory=list)
    unusable: list[str] = dataclasses.field(default_factory=list)
    unseen: set[str] = dataclasses.field(default_factory=set)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    repeated: int = 0


def find_pictures(folder: Path) -> Found:
    """All pictures in a folder and its sub-folders; names that begin with a dot are passed over.

    Links to files are followed, links to folders are not. Whatever is not a file (a pipe, a device), a broken link or
    inaccessible is listed.

    Raises:
      DatasetError: if there is no such folder, or it cannot be read, or no picture is in it.
      StorageError: if a bucket refuses, or does not answer for minutes.
    """
    found = _in_bucket(folder) if is_remote(folder) else _on_disk(folder)
    if not (found.pictures or found.unseen):
        passed_over = "".join(f"\n  {message}" for message in found.unusable[:20])
        raise DatasetError(
            f"{printable(folder)}: no pictures in it or below; their names end in {', '.join(PICTURE_ENDINGS)}"
            f"{passed_over}"
        )
    return found


def _in_bucket(folder: Path) -> Found:
    found = Found()
    objects = list_objects(folder)
    for name in sorted(objects, key=_folders_last):
        if any(map(is_hidden, name.split("/"))):
            found.others["hidden"] += 1
        elif not is_picture(name):
            found.others[_ending(name)] += 1
        elif not is_utf8(name):
            found.unusable.append(f"{printable(folder / name)}: the object's name is not UTF-8; rename it")
        else:
            found.pictures.append(Picture(name, str(folder / name), objects[name].size, objects[name].mtime_ns))
    return found


def _folders_last(name: str) -> list[tuple[bool, str]]:
    """A key that puts the files of a folder before its sub-folders."""
    *folders, file = name.split("/")
    return [*((True, each) for each in folders), (False, file)]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "no ending"


def _on_disk(folder: Path) -> Found:
    found, todo = Found(), [""]
    while todo:
        place = todo.pop()
        try:
            with os.scandir(folder / place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if not place:
                raise DatasetError(f"{printable(folder)}: {_why(error)}; name a folder of pictures") from None
            found.unusable.append(f"{printable(folder / place)}: a folder that cannot be read ({_why(error)})")
            found.unseen.add(place)
            continue
        folders = []
        for entry in inside:
            name = os.path.join(place, entry.name)
            if is_hidden(entry.name):
                found.others["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):
                folders.append(name)
            else:
                _take(found, entry, name)
        todo += reversed(folders)
    return found


def _take(found: Found, entry: os.DirEntry[str], name: str) -> None:
    """Adds a file."""
    shown = printable(entry.path)
    if not is_picture(entry.name):
        if entry.is_symlink() and _is_folder(entry):
            found.unusable.append(f"{shown}: a link to a folder, which is not followed")
        else:
            found.others[_ending(entry.name)] += 1
        return
    try:
        found.pictures.append(picture_at(name, entry.path))
    except DatasetError as error:
        found.unusable.append(str(error))
    except FileNotFoundError:
        found.unusable.append(f"{shown}: a link to nothing, or removed just now")
    except OSError as error:
        found.unusable.append(f"{shown}: cannot be read ({_why(error)})")
        found.unseen.add(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle, for one
        return False


def picture_at(name: str, path: str) -> Picture:
    """One picture with its size and time.

    Raises:
      DatasetError: if it is not a file, or its name cannot be stored.
      OSError: if it cannot be accessed.
    """
    if not is_utf8(name):
        raise DatasetError(f"{printable(path)}: the file's name is not UTF-8; rename it")
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise DatasetError(f"{printable(path)}: a link to a folder, which is not followed")
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{printable(path)}: is {what_is(status.st_mode)}, not a picture")
    return Picture(name, path, status.st_size, status.st_mtime_ns)


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
