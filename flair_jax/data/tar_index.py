"""An index of a WebDataset tar as img2dataset writes them: where its usable samples lie, and what is damaged.

A sample is a JSON member and a picture of the same name up to the first dot. Imports no JAX.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from flair_jax.data.captions import sentences_of
from flair_jax.data.shards import filesystem, fingerprint_of, is_local, open_shard
from flair_jax.data.workers import parallel
from flair_jax.errors import DatasetError
from flair_jax.files import expand, replace_when_complete

PICTURES = ("jpg", "jpeg", "png", "webp")
# A sample's JSON and picture; nothing larger is a caption or a photograph.
_MOST_JSON, _MOST_PICTURE = 2**24, 2**28
_VERSION = 1
_SPANS = np.dtype([(name, "<i8") for name in ("json_offset", "json_size", "picture_offset", "picture_size")])


@dataclasses.dataclass(frozen=True)
class Damage:
    """What cannot be used.

    Attributes:
      shard: path or URL of the tar.
      member: name in it; "" if the tar itself is meant.
      reason: a few words, the same for all of a kind.
    """

    shard: str
    member: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}{': ' + self.member if self.member else ''}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Where the usable samples of one tar lie, and what is damaged.

    Attributes:
      spans: structured [n], in the tar's order: offset and size in bytes of each sample's JSON and picture.
      damage: what was left out.
    """

    spans: np.ndarray
    damage: list[Damage]


def read_members(shard: str, stream: Any) -> Iterator[tuple[tarfile.TarInfo | None, Damage | None]]:
    """Regular members whose bytes are all there, and damage, in the tar's order."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    last = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                last = member.name
                tar.members = []  # type: ignore[attr-defined]  # or it keeps them all
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    yield None, Damage(shard, member.name, "path leads out of the folder")
                elif member.offset_data + member.size > size:
                    yield None, Damage(shard, member.name, "cut off")
                elif member.isreg():
                    yield member, None
            stream.seek(tar.offset)
            if len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                yield None, Damage(shard, "", f"damaged tar (after {last}: no end mark, so it may be cut off)")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        where = f"after {last}" if last else "from the start"
        yield None, Damage(shard, "", f"damaged tar ({where}: {error})")


def index_shard(shard: str, *, need_captions: bool = True) -> ShardIndex:
    """Finds the usable samples of a tar: a JSON that says something, and a picture that is not empty.

    Pictures are not decoded.

    Args:
      shard: path or URL.
      need_captions: False to take samples whose JSON says nothing too.

    Raises:
      DatasetError: if the tar cannot be opened.
    """
    spans: list[tuple[int, int, int, int]] = []
    damage: list[Damage] = []
    parts: dict[str, dict[str, tarfile.TarInfo]] = collections.defaultdict(dict)
    with open_shard(shard) as stream:
        for member, harm in read_members(shard, stream):
            if member is None:
                damage.append(harm)  # type: ignore[arg-type]
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            kind = "json" if suffix.lower() == "json" else "picture" if suffix.lower() in PICTURES else ""
            if not kind:
                continue
            key = f"{folder}/{stem}"
            if kind in parts[key]:
                damage.append(Damage(shard, member.name, f"a second {kind} of that name"))
            else:
                parts[key][kind] = member
        for each in parts.values():
            harm = _unusable(shard, stream, each, need_captions)
            if harm:
                damage.append(harm)
            else:
                text, picture = each["json"], each["picture"]
                spans.append((text.offset_data, text.size, picture.offset_data, picture.size))
    return ShardIndex(np.array(spans, _SPANS), damage)


def _unusable(shard: str, stream: Any, parts: dict[str, tarfile.TarInfo], need_captions: bool) -> Damage | None:
    for kind, most in (("json", _MOST_JSON), ("picture", _MOST_PICTURE)):
        if kind not in parts:
            return Damage(shard, next(iter(parts.values())).name, f"no {kind}")
        member = parts[kind]
        if not 0 < member.size <= most:
            return Damage(shard, member.name, f"{kind} is empty" if not member.size else f"{kind} is too large")
    member = parts["json"]
    stream.seek(member.offset_data)
    try:
        document = parse_json(stream.read(member.size))
        if need_captions:
            sentences_of(document)
    except DatasetError as error:
        return Damage(shard, member.name, str(error))
    return None


def parse_json(data: bytes) -> dict[str, Any]:
    """A sample's JSON object.

    Raises:
      DatasetError: if it is none; in a few words.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise DatasetError("not JSON") from None
    if not isinstance(document, dict):
        raise DatasetError("JSON is not an object")
    return document


def build_index(
    shards: Sequence[str], index_dir: str | Path = "", *, processes: int = 0, progress: bool = True
) -> list[tuple[Path, int, list[Damage]]]:
    """Makes the indexes that are missing or older than their tar; one that was stopped goes on where it was.

    Args:
      shards: paths or URLs.
      index_dir: see `TarSource`.
      processes: how many work at once; 0: one for each core.
      progress: show a progress bar.

    Returns:
      For each tar the file of its spans, their number, and what is damaged.

    Raises:
      DatasetError: if a tar cannot be opened.
    """
    load_spans.cache_clear()  # what lies on the disk counts
    missing = [shard for shard in shards if _read_index(shard, index_dir) is None]
    if missing:
        for _ in parallel(
            functools.partial(_write_index, index_dir=str(index_dir)),
            missing,
            processes=processes,
            description="index",
            unit="tar",
            progress=progress,
        ):
            pass
        load_spans.cache_clear()
    made = []
    for shard in shards:
        found = _read_index(shard, index_dir)
        if found is None:
            raise DatasetError(f"{shard}: changes while it is indexed; wait until it is complete")
        made.append(found)
    return made


def _write_index(shard: str, index_dir: str) -> None:
    fingerprint = fingerprint_of(shard)
    index = index_shard(shard)
    document = {
        "version": _VERSION,
        "shard": shard,
        "fingerprint": fingerprint,
        "samples": len(index.spans),
        "damage": [[harm.member, harm.reason] for harm in index.damage],
    }
    spans, description = _index_files(shard, index_dir)
    with replace_when_complete(spans) as partial, partial.open("wb") as stream:
        np.save(stream, index.spans)
    with replace_when_complete(description) as partial:
        partial.write_text(json.dumps(document) + "\n", encoding="utf-8")


def _read_index(shard: str, index_dir: str | Path) -> tuple[Path, int, list[Damage]] | None:
    spans, description = _index_files(shard, index_dir)
    try:
        document = json.loads(description.read_text(encoding="utf-8"))
        if document["version"] != _VERSION or document["fingerprint"] != fingerprint_of(shard):
            return None
        if len(load_spans(spans)) != document["samples"]:
            return None
        return spans, document["samples"], [Damage(shard, *harm) for harm in document["damage"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


@functools.lru_cache(maxsize=4096)
def load_spans(path: Path) -> np.ndarray:
    """The spans of an index, mapped; see `ShardIndex`."""
    return np.load(path, mmap_mode="r")


def _index_files(shard: str, index_dir: str | Path) -> tuple[Path, Path]:
    """Spans and description; tars of the same name in different folders have different ones."""
    local = Path(filesystem(shard)[1]) if is_local(shard) else None
    if not index_dir and local and os.access(local.parent, os.W_OK):
        stem = local.parent / f"{local.name}.index"
    else:
        folder = expand(index_dir or "~/.cache/flair_jax/tars")
        name = shard if local is None else str(local.absolute())
        stem = folder / f"{PurePosixPath(name).name}.{hashlib.sha256(name.encode()).hexdigest()[:16]}.index"
    return stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")
