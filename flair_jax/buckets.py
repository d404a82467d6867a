"""Paths in buckets (`gs://`, `s3://`), through etils' `epath` and fsspec. Imports no JAX.

A bucket has objects and no folders. An object is written whole or not at all, and nothing can be renamed: a folder
counts as complete once the object that is written last is there.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import importlib.util
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

from flair_jax.bucket_reads import ask, filesystem
from flair_jax.errors import ConfigError
from flair_jax.packages import how_to_install

# The extra of each scheme, and the package that it brings.
_PACKAGES = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
_URL = re.compile(r"([a-z][a-z0-9+.-]*):/+(.*)", re.DOTALL)

_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
_THREADS = 16  # requests at once: each takes some 20 ms


def is_remote(path: object) -> bool:
    """Whether a path, or its text, is in a bucket."""
    found = _URL.match(str(path))
    return found is not None and found[1] in _PACKAGES


def is_for_orbax(path: Path) -> bool:
    """Whether Orbax reads and writes checkpoints there: on disks, and of the buckets in those of Google."""
    return not is_remote(path) or str(path).startswith("gs:")


def remote_path(text: str) -> Path:
    """A path in a bucket: an `epath.Path`, which has those of pathlib's methods that make sense there.

    Args:
      text: such as "gs://bucket/folder"; "gs:/bucket/folder", which pathlib makes of it, is the same.

    Raises:
      ConfigError: if no bucket is named, or the package for its kind is not installed.
    """
    found = _URL.match(text)
    if found is None or not found[2].strip("/"):
        raise ConfigError(f"{text}: names no bucket; write {text.partition(':')[0]}://BUCKET/FOLDER")
    extra, package = _PACKAGES[found[1]]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{text}: needs {package}: {how_to_install(extra)}")
    from etils import epath
    from etils.epath import backend

    path = epath.Path(f"{found[1]}://{found[2]}")
    backend.fsspec_backend.fs(str(path)).dircache.use_listings_cache = False  # other processes write there, too
    return cast(Path, path)


class Object(NamedTuple):
    """What a listing says of an object.

    Attributes:
      size: in bytes.
      mtime_ns: time when it was written.
    """

    size: int
    mtime_ns: int


def list_objects(folder: Path) -> dict[str, Object]:
    """The objects below a folder of a bucket, by their names relative to it."""
    store, root = filesystem(str(folder))
    found = ask(str(folder), lambda: store.find(root, detail=True))
    prefix = root.rstrip("/") + "/"
    return {
        name.removeprefix(prefix): Object(int(info["size"]), _nanoseconds(info.get("mtime") or info["LastModified"]))
        for name, info in found.items()
        if name.startswith(prefix)
    }


def _nanoseconds(time: datetime.datetime) -> int:
    return (time - _EPOCH) // datetime.timedelta(microseconds=1) * 1000


def list_files(folder: Path) -> dict[str, int]:
    """The files below a folder of a bucket, by their names relative to it, and their sizes in bytes."""
    return {name: found.size for name, found in list_objects(folder).items()}


def upload(source: Path, target: Path) -> None:
    """Writes a file or folder of this machine into a bucket.

    Of a folder, the file that was written last goes last, and one of that name is removed before any other changes.
    """
    store, root = filesystem(str(target))

    def put(name: str = "") -> None:
        ask(f"{target}/{name}", lambda: store.put_file(str(source / name), f"{root}/{name}".rstrip("/")))

    if not source.is_dir():
        put()
        return
    files = sorted((each for each in source.rglob("*") if each.is_file()), key=lambda each: each.stat().st_mtime_ns)
    names = [each.relative_to(source).as_posix() for each in files]
    before = list_files(target)
    for stray in [name for name in names[-1:] if name in before] + sorted(before.keys() - set(names)):
        _remove(target / stray)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(put, names[:-1]))
    put(names[-1])


def _remove(path: Path) -> None:
    """Removes an object, if it is there."""
    store, place = filesystem(str(path))
    with suppress(FileNotFoundError):
        ask(str(path), lambda: store.rm_file(place))


def remove_folder(folder: Path) -> None:
    """Removes all objects below a folder, if there are any."""
    store, root = filesystem(str(folder))
    with suppress(FileNotFoundError):
        ask(str(folder), lambda: store.rm(root, recursive=True))


def version_of(path: Path) -> str:
    """A text that changes when an object is written."""
    store, place = filesystem(str(path))
    return str(ask(str(path), lambda: store.ukey(place)))


@functools.cache
def fetch(path: Path) -> Path:
    """A copy of an object or folder on this machine, until the process ends; a bar shows how far it is."""
    from flair_jax.progress import BYTES, ProgressBar  # the console starts without it

    folder = tempfile.TemporaryDirectory(prefix="flair-jax-")
    atexit.register(folder.cleanup)
    store, root = filesystem(str(path))
    local = Path(folder.name) / path.name
    files = list_files(path) if path.is_dir() else {"": int(ask(str(path), lambda: store.size(root)))}
    with ProgressBar(total=sum(files.values()), description=f"fetch {path.name}", unit=BYTES) as bar:
        for name, size in files.items():
            place = local / name
            place.parent.mkdir(parents=True, exist_ok=True)
            ask(f"{path}/{name}", functools.partial(store.get_file, f"{root}/{name}".rstrip("/"), str(place)))
            bar.update(size)
    return local


def move(source: Path, target: Path) -> None:
    """Copies a folder within a bucket, all of it before anything is removed."""
    store, root = filesystem(str(source))
    store.mv(root, filesystem(str(target))[1], recursive=True)
