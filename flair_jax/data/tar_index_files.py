"""The indexes of tars on disks and in buckets: an array of spans, and a JSON that describes it. Imports no JAX.

The JSON is written last, and names the tar's fingerprint and the array's digest, so that an array without it, or of
another state of the tar, is never used.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from flair_jax.bucket_reads import ask, filesystem, is_url
from flair_jax.data.damage import Damage
from flair_jax.data.shards import fingerprint_of
from flair_jax.errors import OutageError, StorageError
from flair_jax.files import expand, replace_when_complete

SPANS = np.dtype(
    [(name, "<i8") for name in ("json_offset", "json_size", "picture_offset", "picture_size", "picture_header")]
)
# Held while NumPy parses a header by Python's `ast`, which in Python 3.11 fails now and then if several threads do it
# at once: "AST constructor recursion depth mismatch" (python/cpython#106905).
_HEADERS = threading.Lock()
_VERSION = 2
_CACHE = "~/.cache/flair_jax/tars"


class IndexedShard(NamedTuple):
    """A tar's index on disk: the file of its spans, their number, and the rest of its `ShardIndex`."""

    spans: Path
    samples: int
    damage: list[Damage]
    beside: int


def read_index(shard: str, index_dir: str | Path) -> IndexedShard | None:
    """The index of a tar; None if there is none of its present state.

    Spans from a bucket are kept in ~/.cache/flair_jax/tars under their digest, where all processes of the machine map
    them into memory.

    Raises:
      DatasetError: if the tar cannot be opened.
      StorageError: if a bucket cannot be read.
    """
    fingerprint = fingerprint_of(shard)
    stems = _stems(shard, index_dir)
    for stem in stems:
        try:
            document = json.loads(_read(stem + ".json"))
            if document["version"] != _VERSION or document["fingerprint"] != fingerprint:
                continue
            spans = _fetched(stem + ".npy", document["spans_sha256"]) if is_url(stem) else Path(stem + ".npy")
            if load_spans(spans).dtype != SPANS or len(load_spans(spans)) != document["samples"]:
                continue
            damage = [Damage(shard, *harm) for harm in document["damage"]]
            return IndexedShard(spans, document["samples"], damage, document["beside"])
        except StorageError as error:  # S3 forbids to ask for what is not there, where listing is forbidden
            if isinstance(error, OutageError) or stem == stems[-1]:
                raise
        except (FileNotFoundError, PermissionError, ValueError, KeyError, TypeError, EOFError):  # none, a half, another
            continue
    return None


def say_where(shards: Sequence[str], index_dir: str | Path) -> None:
    """Warns of each folder on a disk whose tars' indexes go elsewhere, since nothing may be written there."""
    folders = {} if index_dir else {_on_disk(shard).parent: None for shard in shards if not is_url(shard)}
    for folder in filter(_is_forbidden, folders):
        logging.warning(
            "%s: may not be written, so the indexes of its tars go to %s; ask for the permission, or choose another "
            "folder for them (config.data.index_dir, --index-dir)",
            *(folder, _CACHE),
        )


def write_index(
    shard: str, index_dir: str | Path, spans: np.ndarray, *, fingerprint: str, damage: Sequence[Damage], beside: int
) -> None:
    """Writes the index of a tar, to the first of its places where that is allowed; of a bucket's, a warning says so.

    Args:
      shard: path or URL.
      index_dir: see `TarSource`.
      spans: structured [n], see `ShardIndex`.
      fingerprint: of the tar, from before it was read.
      damage: of it.
      beside: see `ShardIndex`.

    Raises:
      StorageError: if it is not allowed anywhere.
    """
    stream = io.BytesIO()
    np.save(stream, spans)
    document = {
        "version": _VERSION,
        "shard": shard,
        "fingerprint": fingerprint,
        "samples": len(spans),
        "spans_sha256": hashlib.sha256(stream.getvalue()).hexdigest(),
        "damage": [[harm.place, harm.reason] for harm in damage],
        "beside": beside,
    }
    stems = _stems(shard, index_dir)
    for stem in stems if is_url(shard) else stems[-1:]:  # of a disk it is known before
        try:
            _write(stem + ".npy", stream.getvalue())
            _write(stem + ".json", (json.dumps(document) + "\n").encode())
            return
        except StorageError as error:
            if isinstance(error, OutageError) or stem == stems[-1]:
                raise
            logging.warning("%s; the index goes to %s", error, _CACHE)


@functools.lru_cache(maxsize=4096)
def load_spans(path: Path) -> np.ndarray:
    """The spans of an index on this machine, structured [n], mapped; see `ShardIndex`."""
    with _HEADERS:
        return np.load(path, mmap_mode="r")


def _read(path: str) -> bytes:
    if not is_url(path):
        return Path(path).read_bytes()
    files, place = filesystem(path)
    return ask(path, lambda: files.cat_file(place))


def _write(path: str, data: bytes) -> None:
    """Whole or not at all: an object appears in a bucket when its last byte has arrived."""
    if is_url(path):
        files, place = filesystem(path)
        ask(path, lambda: files.pipe_file(place, data))
    else:
        with replace_when_complete(path) as partial:
            partial.write_bytes(data)


def _fetched(url: str, digest: str) -> Path:
    """A copy of the spans in a bucket; raises ValueError if they are others than the description's."""
    path = expand(_CACHE) / f"{digest}.npy"
    if not path.exists():
        data = _read(url)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("spans of another state of the tar")
        _write(str(path), data)
    return path


def _stems(shard: str, index_dir: str | Path) -> list[str]:
    """Places of an index, without endings, the best first; equal names in different folders have different ones."""
    name = shard if is_url(shard) else str(_on_disk(shard))
    named = f"{PurePosixPath(name).name}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.index"
    if is_url(index_dir):
        return [f"{str(index_dir).rstrip('/')}/{named}"]
    if index_dir:
        return [str(expand(index_dir) / named)]
    beside = f"{name}.index"
    if is_url(shard) or _is_forbidden(Path(name).parent):  # somebody else may have put it there
        return [beside, str(expand(_CACHE) / named)]
    return [beside]


def _on_disk(shard: str) -> Path:
    """The absolute path of a tar that is in no bucket."""
    return Path(filesystem(shard)[1]).absolute()


def _is_forbidden(folder: Path) -> bool:
    return not os.access(folder, os.W_OK)
