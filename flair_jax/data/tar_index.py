"""An index of a WebDataset tar as img2dataset writes them: where its usable samples lie, and what is damaged.

A sample is a JSON member and a picture of the same name up to the first dot. Imports no JAX.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flair_jax.data.captions import sentences_of
from flair_jax.data.damage import Damage
from flair_jax.data.names import is_picture
from flair_jax.data.shards import fingerprint_of, open_shard
from flair_jax.data.tar_index_files import SPANS, IndexedShard, load_spans, read_index, say_where, write_index
from flair_jax.data.tar_members import read_members
from flair_jax.data.workers import parallel
from flair_jax.errors import DatasetError

# Limits of a sample's JSON and picture; nothing larger is a caption or a photograph.
MOST_JSON, _MOST_PICTURE = 2**24, 2**28


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Where the usable samples of one tar lie, and what is damaged.

    Attributes:
      spans: structured [n], in the tar's order: offset and size in bytes of each sample's JSON and picture, and where
        the headers of the picture begin.
      names: of the n pictures.
      damage: what was left out.
      beside: how many members stand beside a picture or JSON under its key, and are not read: texts, labels.
      is_tar: whether the file holds any member.
    """

    spans: np.ndarray
    names: list[str]
    damage: list[Damage]
    beside: int
    is_tar: bool


def split_name(name: str) -> tuple[str, str]:
    """A member's key, which is its path up to the first dot of the file name, and its kind: json, picture or ""."""
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    kind = "json" if ending.lower() == "json" else "picture" if "." not in ending and is_picture(base) else ""
    return f"{folder}/{stem}", kind


def index_shard(shard: str, *, need_captions: bool = True) -> ShardIndex:
    """Finds the usable samples of a tar: those with captions in their JSON and a picture that is not empty.

    Pictures are not decoded.

    Args:
      shard: path or URL.
      need_captions: False to accept samples without captions as well.

    Raises:
      DatasetError: if the tar cannot be read.
    """
    damage: list[Damage] = []
    samples: dict[str, dict[str, tarfile.TarInfo]] = collections.defaultdict(dict)
    bad_texts: dict[str, str] = {}
    others: dict[str, list[str]] = collections.defaultdict(list)
    usable: dict[str, tarfile.TarInfo] = {}
    spans: list[tuple[int, ...]] = []
    with open_shard(shard) as stream:
        for member in read_members(shard, stream):
            if isinstance(member, Damage):
                damage.append(member)
                continue
            key, kind = split_name(member.name)
            if not kind:
                others[key].append(member.name)
            elif kind in samples[key]:
                damage.append(Damage(shard, member.name, f"a second {kind} of that name"))
            else:
                samples[key][kind] = member
                if kind == "json" and 0 < member.size <= MOST_JSON:  # now, while the stream is there
                    bad_texts[key] = _bad_text(stream, member, need_captions)
    is_tar = bool(samples or others or any(harm.place for harm in damage))
    for key, parts in samples.items():
        harm = _unusable(shard, parts, bad_texts.get(key, ""))
        if harm:
            damage.append(harm)
            continue
        text, picture = parts["json"], parts["picture"]
        usable[key] = picture
        spans.append((text.offset_data, text.size, picture.offset_data, picture.size, picture.offset))
    lost = [
        Damage(shard, *harm)
        for key, names in others.items()
        for harm in _lost(names, usable=key in usable, alone=key not in samples)
    ]
    beside = sum(map(len, others.values())) - len(lost)
    return ShardIndex(
        np.array(spans, SPANS), [member.name for member in usable.values()], damage + lost, beside, is_tar
    )


def _lost(names: Sequence[str], *, usable: bool, alone: bool) -> Iterator[tuple[str, str]]:
    """Those members of a key, besides its picture and JSON, whose loss matters, and why.

    Args:
      names: of these members.
      usable: whether the key has a usable sample; then only a whole second sample counts as lost.
      alone: whether it has neither picture nor JSON.
    """
    endings: dict[str, set[str]] = collections.defaultdict(set)
    for name in names:
        if is_picture(name) or name.lower().endswith(".json"):
            endings[name.rpartition(".")[0]].add("picture" if is_picture(name) else "json")
    for name in names:
        found = endings.get(name.rpartition(".")[0], set())
        if len(found) == 2 or (found and not usable):
            yield name, "a dot in the key, which ends at the first dot; rename it"
        elif alone:
            yield name, "neither a picture nor JSON by its ending"


def _unusable(shard: str, parts: dict[str, tarfile.TarInfo], bad_text: str) -> Damage | None:
    for kind, most in (("json", MOST_JSON), ("picture", _MOST_PICTURE)):
        if kind not in parts:
            return Damage(shard, next(iter(parts.values())).name, f"no {kind}")
        member = parts[kind]
        if not 0 < member.size <= most:
            return Damage(shard, member.name, f"{kind} is empty" if not member.size else f"{kind} is too large")
    return Damage(shard, parts["json"].name, bad_text) if bad_text else None


def _bad_text(stream: BinaryIO, member: tarfile.TarInfo, need_captions: bool) -> str:
    """Why a JSON member is of no use; "" if it is."""
    stream.seek(member.offset_data)
    try:
        document = parse_json(stream.read(member.size))
        if need_captions:
            sentences_of(document)
    except DatasetError as error:
        return str(error)
    return ""


def parse_json(data: bytes) -> dict[str, Any]:
    """A sample's JSON object.

    Raises:
      DatasetError: if it is not one; the message is the reason alone.
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
) -> list[IndexedShard]:
    """Makes the indexes that are missing or older than their tar; a stopped run resumes where it was.

    Nothing is written for a file that is no tar.

    Args:
      shards: paths or URLs.
      index_dir: see `TarSource`.
      processes: how many work at once; 0: one for each core.
      progress: show a progress bar.

    Raises:
      DatasetError: if a tar cannot be read.
      StorageError: if a bucket cannot.
    """
    load_spans.cache_clear()  # the files may have changed
    found = _read_all(shards, index_dir)
    missing = [shard for shard, index in found.items() if index is None]
    if missing:
        say_where(missing, index_dir)
        made = parallel(
            functools.partial(_write_index, index_dir=str(index_dir)),
            missing,
            processes=processes,
            description="index",
            unit="tar",
            progress=progress,
        )
        no_tars = {
            shard: IndexedShard(Path(), 0, damage, 0) for shard, damage in zip(missing, made, strict=True) if damage
        }
        load_spans.cache_clear()
        found |= _read_all([shard for shard in missing if shard not in no_tars], index_dir) | no_tars
    complete = []
    for shard in shards:
        index = found[shard]
        if index is None:
            raise DatasetError(f"{shard}: changes while it is indexed; wait until it is complete")
        complete.append(index)
    return complete


def _read_all(shards: Sequence[str], index_dir: str | Path) -> dict[str, IndexedShard | None]:
    """The indexes that there are; those in buckets arrive together."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return dict(zip(shards, pool.map(lambda shard: read_index(shard, index_dir), shards), strict=True))


def _write_index(shard: str, index_dir: str) -> list[Damage]:
    """Writes the index; of a file that is no tar, returns the reason instead."""
    fingerprint = fingerprint_of(shard)
    index = index_shard(shard)
    if not index.is_tar:
        return index.damage
    write_index(shard, index_dir, index.spans, fingerprint=fingerprint, damage=index.damage, beside=index.beside)
    return []
