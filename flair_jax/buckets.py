"""Paths in buckets (`gs://`, `s3://`), through etils' `epath` and fsspec. Imports no JAX.

A bucket has objects and no folders. An object is written whole or not at all, and nothing can be renamed: a folder
counts as complete once the object that is written last is there.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import logging
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from flair_jax.errors import ConfigError, FlairError
from flair_jax.packages import how_to_install

# The extra of each scheme, and the package that it brings.
_PACKAGES = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
_URL = re.compile(r"([a-z][a-z0-9+.-]*):/+(.*)", re.DOTALL)

_THREADS = 16  # requests at once: each takes some 20 ms

# A lock is refreshed so often, and taken to be that of a killed process when it is so old; in seconds.
REFRESH, STALE = 5.0, 30.0


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
        raise ConfigError(f"{text}: {how_to_install(extra)}")
    from etils import epath

    path = epath.Path(f"{found[1]}://{found[2]}")
    filesystem(cast(Path, path)).dircache.use_listings_cache = False  # other processes write there, too
    return cast(Path, path)


def filesystem(path: Path) -> Any:
    """The fsspec file system that `epath` uses for a path in a bucket."""
    from etils.epath import backend

    return backend.fsspec_backend.fs(str(path))


def list_files(folder: Path) -> dict[str, int]:
    """The files below a folder of a bucket, by their names relative to it, and their sizes in bytes."""
    prefix = str(folder).partition("://")[2].rstrip("/") + "/"
    found = filesystem(folder).find(str(folder), detail=True)
    return {name.removeprefix(prefix): int(info["size"]) for name, info in found.items() if name.startswith(prefix)}


def upload(source: Path, target: Path) -> None:
    """Writes a file or folder of this machine into a bucket.

    Of a folder, the file that was written last goes last, and one of that name is removed before any other changes.
    """
    if not source.is_dir():
        filesystem(target).put_file(str(source), str(target))
        return
    files = sorted((each for each in source.rglob("*") if each.is_file()), key=lambda each: each.stat().st_mtime_ns)
    names = [each.relative_to(source).as_posix() for each in files]
    store, before = filesystem(target), list_files(target)
    if names[-1] in before:
        store.rm_file(f"{target}/{names[-1]}")
    for stray in before.keys() - set(names):
        store.rm_file(f"{target}/{stray}")
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: store.put_file(f"{source}/{name}", f"{target}/{name}"), names[:-1]))
    store.put_file(f"{source}/{names[-1]}", f"{target}/{names[-1]}")


def remove_folder(folder: Path) -> None:
    """Removes all objects below a folder, if there are any."""
    with suppress(FileNotFoundError):
        filesystem(folder).rm(str(folder), recursive=True)


def version_of(path: Path) -> str:
    """A text that changes when an object is written."""
    store = filesystem(path)
    store.invalidate_cache()
    return str(store.ukey(str(path)))


@functools.cache
def fetch(path: Path) -> Path:
    """A copy of an object or folder on this machine, until the process ends; a bar shows how far it is."""
    from tqdm import tqdm  # the console starts without it

    folder = tempfile.TemporaryDirectory(prefix="flair-jax-")
    atexit.register(folder.cleanup)
    local, store = Path(folder.name) / path.name, filesystem(path)
    files = list_files(path) if path.is_dir() else {"": int(store.size(str(path)))}
    with tqdm(total=sum(files.values()), desc=f"fetch {path.name}", unit="B", unit_scale=True) as bar:
        for name, size in files.items():
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            store.get_file(f"{path}/{name}".rstrip("/"), str(local / name))
            bar.update(size)
    return local


def move(source: Path, target: Path) -> None:
    """Copies a folder within a bucket, all of it before anything is removed."""
    filesystem(source).mv(str(source), str(target), recursive=True)


@contextmanager
def locked(name: Path, busy: FlairError) -> Iterator[None]:
    """Keeps other processes out during the block, by an object that only one of them can make.

    The object is refreshed every `REFRESH` seconds; one that has not been for `STALE` seconds is that of a killed
    process, and is replaced, at once if that process was one of this machine. So a run that is started again on another
    machine right after a kill waits for that long.

    Args:
      name: of the object.
      busy: the error to raise if another process holds it; the name of that process is added.

    Raises:
      FlairError: `busy`.
    """
    store, owner = filesystem(name), f"process {os.getpid()} on {socket.gethostname()}"
    mine = {"owner": owner, "token": secrets.token_hex(8), "process": os.getpid(), "place": _place()}
    lease = _Lease(store, str(name), mine)
    lease.take(busy)
    done = threading.Event()

    def refresh() -> None:
        while not done.wait(REFRESH):
            lease.refresh()

    thread = threading.Thread(target=refresh, daemon=True, name="bucket-lock")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        lease.release()


def _place() -> str:
    """Tells machines, their starts and containers apart; where these are not known, never the same twice."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {secrets.token_hex(8)}"


class _Lease:
    """An object that says who holds a lock, and changes as long as they do."""

    def __init__(self, store: Any, name: str, content: dict[str, Any]) -> None:
        self._store, self._name, self._content = store, name, {**content, "count": 0}

    def take(self, busy: FlairError) -> None:
        """Makes the object, if need be after the present one has not changed for `STALE` seconds."""
        seen = self._read()
        if seen is not None and not self._has_ended(seen):
            self._await(seen, busy)
        if seen is not None and self._read() == seen:
            self._remove()
        try:
            self._store.pipe_file(self._name, self._bytes(), mode="create")
        except FileExistsError:
            made = self._read() or {}
            if made.get("token") != self._content["token"]:  # or the answer was lost, and the client asked again
                raise type(busy)(f"{busy} ({made.get('owner')})") from None

    def _has_ended(self, seen: dict[str, Any]) -> bool:
        """Whether a lock is known to be that of a process of this machine that is no more."""
        if seen.get("place") != self._content["place"] or not isinstance(seen.get("process"), int):
            return False
        with suppress(PermissionError):
            try:
                os.kill(seen["process"], 0)
            except ProcessLookupError:
                return True
        return False

    def _await(self, seen: dict[str, Any], busy: FlairError) -> None:
        """Returns once a lock is gone or stale; raises `busy` once it changes."""
        logging.warning(
            "%s: %s held it; waiting up to %.0f s for a sign that it still does", self._name, seen.get("owner"), STALE
        )
        until = time.monotonic() + STALE
        while time.monotonic() < until and (now := self._read()) is not None:
            if now != seen:
                raise type(busy)(f"{busy} ({now.get('owner')})")
            time.sleep(REFRESH / 5)

    def refresh(self) -> None:
        try:
            if not self._is_mine():
                return
            self._content["count"] += 1
            self._store.pipe_file(self._name, self._bytes())
        except Exception as error:  # the next one may succeed, and there are several before the lease ends
            logging.warning("%s: the lock could not be refreshed (%s)", self._name, error)

    def release(self) -> None:
        try:
            if self._is_mine():
                self._remove()
        except Exception as error:  # what was done under the lock is done all the same
            logging.warning("%s: the lock could not be removed (%s); it ends in %.0f s", self._name, error, STALE)

    def _is_mine(self) -> bool:
        seen = self._read()
        if seen is not None and seen.get("token") == self._content["token"]:
            return True
        logging.error("%s: another process has taken this lock; two may be at work here", self._name)
        return False

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._store.cat_file(self._name))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _bytes(self) -> bytes:
        return json.dumps(self._content).encode()

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            self._store.rm_file(self._name)
