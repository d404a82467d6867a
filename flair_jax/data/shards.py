"""Tars by name: what a pattern means, and how one on a disk or in a bucket is opened. Imports no JAX."""

from __future__ import annotations

import concurrent.futures
import glob
import io
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import fsspec
from braceexpand import braceexpand

from flair_jax.bucket_reads import BucketFile, ask, filesystem, is_url
from flair_jax.errors import DatasetError
from flair_jax.files import expand

_MOST_SHARDS = 10**6
# Of one request, where a tar is read from end to end.
_BUFFER = 2**23
_NAME_TARS = "name its tars, as in FOLDER/*.tar"


def is_tars(name: str) -> bool:
    """Whether a data set's name is a pattern of tars, rather than the name of a TFDS data set."""
    return name.endswith(".tar")


def expand_shards(pattern: str, base: str | Path = "") -> list[str]:
    """Paths or URLs of tars, in order.

    Folders and files whose real names hold wildcards, such as `run[1]`, are taken literally. As in a shell, wildcards
    do not match hidden files.

    Args:
      pattern: with brace patterns ({0000..0575}, {a,b}) and wildcards; several joined by `::`.
      base: folder of relative paths.

    Raises:
      DatasetError: if a pattern is wrong, or a wildcard finds nothing.
    """
    shards: list[str] = []
    for part in pattern.split("::"):
        ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)", part)
        if math.prod(abs(int(end) - int(start)) + 1 for start, end in ranges) > _MOST_SHARDS:
            raise DatasetError(f"{part}: is more than {_MOST_SHARDS:,} tars; correct the range")
        try:
            paths = list(braceexpand(part))
        except ValueError:
            raise DatasetError(f"{part}: unbalanced braces; ranges are written as {{0000..0575}}") from None
        for path in paths:
            if "://" not in path:
                local = expand(path)
                if is_url(base) and not local.is_absolute():
                    path = f"{str(base).rstrip('/')}/{path}"
                else:
                    path = str(local if local.is_absolute() else expand(base) / local)
            if any(letter in path for letter in "*?["):
                shards.extend(_matches(path))
            else:
                shards.append(path)
    return shards


def _matches(pattern: str) -> list[str]:
    """What a pattern with wildcards matches in its file system, in order."""
    files, root = filesystem(pattern)

    def search() -> list[str]:
        found = sorted(each for each in files.glob(_literal(files, root)) if not _is_hidden(each, root))
        if not found:
            raise FileNotFoundError
        return found

    try:
        found = ask(pattern, search) if is_url(pattern) else search()
    except FileNotFoundError:
        raise DatasetError(f"{pattern}: no such tars") from None
    return [files.unstrip_protocol(each) if "://" in pattern else each for each in found]


def _literal(files: fsspec.AbstractFileSystem, path: str) -> str:
    """The pattern with the wildcards escaped in all leading names that exist literally."""
    escaped, literal = "", ""
    for name in path.split("/"):
        literal += name
        if any(letter in name for letter in "*?["):
            if not files.exists(literal):
                return escaped + path[len(literal) - len(name) :]
            name = glob.escape(name)
        escaped, literal = f"{escaped}{name}/", f"{literal}/"
    return escaped[:-1]


def _is_hidden(path: str, pattern: str) -> bool:
    """Whether a wildcard has matched a hidden name in it."""
    named = set(pattern.split("/"))
    return any(name.startswith(".") and name not in named for name in path.split("/"))


def require_shards(shards: Sequence[str]) -> None:
    """Makes sure that all tars are there, before long work begins.

    Raises:
      DatasetError: if one is not.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(fingerprint_of, shards))


def fingerprint_of(shard: str) -> str:
    """A value that changes when the tar does.

    Raises:
      DatasetError: if there is no such file, or it cannot be opened.
    """
    try:
        if is_url(shard):
            return _fingerprint_in_bucket(shard)
        path = filesystem(shard)[1]
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = f"is a folder; {_NAME_TARS}" if os.path.isdir(path) else "is not a file"
            raise DatasetError(f"{shard}: {what}")
        return f"{status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be opened ({error.strerror or error})") from None


def _fingerprint_in_bucket(shard: str) -> str:
    """The same whether it comes from a listing or from the tar itself, which tell different things besides."""
    files, path = filesystem(shard)
    info = ask(shard, lambda: files.info(path))
    if info["type"] == "directory":
        raise DatasetError(f"{shard}: is a folder; {_NAME_TARS}")
    mark = info.get("generation") or info.get("ETag")
    return f"{info['size']} {mark}" if mark else str(files.ukey(path))


def open_shard(shard: str) -> BinaryIO:
    """A tar, open for reading; raises DatasetError if it cannot be."""
    try:
        if is_url(shard):
            return io.BufferedReader(BucketFile(shard), _BUFFER)
        return open(filesystem(shard)[1], "rb")
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be opened ({error.strerror or error})") from None
