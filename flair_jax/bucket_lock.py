"""A lock that is an object in a bucket, which only one process can make. Imports no JAX."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flair_jax.bucket_reads import filesystem
from flair_jax.errors import FlairError

# A lock is refreshed so often, and taken to be that of a killed process when it is so old; in seconds.
REFRESH, STALE = 5.0, 30.0


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
    store, place = filesystem(str(name))
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    mine = {"owner": owner, "token": secrets.token_hex(8), "process": os.getpid(), "place": _place()}
    lease = _Lease(store, place, mine)
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
