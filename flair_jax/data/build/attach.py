"""Attaches the captions of a table to tars of images that exist already."""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from flair_jax.data.build.caption_tables import read_table, require_rows
from flair_jax.data.captions import sentences_of
from flair_jax.data.damage import Damage, LeftOut
from flair_jax.data.shards import open_shard
from flair_jax.data.tar_index import MOST_JSON, ShardIndex, index_shard, parse_json, split_name
from flair_jax.data.tar_members import read_members
from flair_jax.errors import DatasetError
from flair_jax.files import replace_when_complete
from flair_jax.progress import ProgressBar

_Captions = Mapping[str, list[str]]


def attach(table: Path, shards: list[str], folder: Path) -> tuple[collections.Counter[str], LeftOut]:
    """Writes tars like those given, with each sample's captions from a table in its JSON.

    A row belongs to the sample whose JSON has the row's address as `url`, or whose key is the address's file name
    without its extension. Samples without a row, and members that belong to no sample, are left out; the other members
    of a sample are kept as they are. Tars that exist already are not written again, and tars without a sample are not
    written.

    Args:
      table: see `read_table`.
      shards: tars.
      folder: where tars of the same names are written.

    Returns:
      Counts ("attached", "rows without a sample", "tars that were there"), and the rows and members that were left out.
      Of tars that were there, only what they hold is known: not what was left out of them.

    Raises:
      DatasetError: as `read_table`, if no row can be used, if two tars have the same name, or if one lies in `folder`.
    """
    targets = [folder / Path(shard).name for shard in shards]
    if len(set(targets)) < len(targets):
        raise DatasetError(f"{folder}: several tars have the same name; attach to each set in a folder of its own")
    if any(target.resolve() == Path(shard).resolve() for target, shard in zip(targets, shards, strict=True)):
        raise DatasetError(f"{folder}: the tars lie in it themselves; give --output another folder")
    left_out = LeftOut()
    rows = _Rows(table, left_out)
    counts: collections.Counter[str] = collections.Counter()
    for shard, target in ProgressBar(list(zip(shards, targets, strict=True)), description="attach", unit="tar"):
        if target.exists():
            counts["tars that were there"] += 1
            _note_samples(str(target), rows)
            continue
        attached = _attach_shard(shard, target, rows, left_out)
        counts["attached"] += attached
        if not attached:
            counts["tars that have none, not written"] += 1
    if rows.unused:
        counts["rows without a sample"] = len(rows.unused)
    return counts, left_out


class _Rows:
    """A table's captions by address, and by key where only one row has it."""

    def __init__(self, table: Path, left_out: LeftOut) -> None:
        self._by_address: dict[str, _Captions] = {}
        self._by_key: dict[str, str | None] = {}
        for row in ProgressBar(read_table(table), description="table", unit="row"):
            if isinstance(row, Damage):
                left_out.add(row)
                continue
            address, captions = row
            if address in self._by_address:
                left_out.add(Damage(str(table), address, "an address that an earlier row has"))
                continue
            self._by_address[address] = captions
            key = address.rpartition("/")[2].partition(".")[0]
            self._by_key[key] = None if key in self._by_key else address
        require_rows(table, len(self._by_address), left_out)
        self.unused = set(self._by_address)

    def captions_of(self, url: str, name: str) -> _Captions:
        """The captions of a picture; raises DatasetError, in a few words, if no row has them."""
        key = split_name(name)[0].rpartition("/")[2]
        address = url if url in self._by_address else self._by_key.get(key, "") if key else ""
        if address is None:
            raise DatasetError("several rows have its key as file name, and none its URL")
        if not address:
            raise DatasetError("no row for it")
        self.unused.discard(address)
        return self._by_address[address]


def _note_samples(shard: str, rows: _Rows) -> None:
    """Takes note of the rows whose samples are in a tar that was there."""
    with open_shard(shard) as stream:
        for member in read_members(shard, stream):
            if isinstance(member, Damage) or split_name(member.name)[1] != "json" or member.size > MOST_JSON:
                continue
            stream.seek(member.offset_data)
            with contextlib.suppress(DatasetError):  # of a sample that has no row in this table
                rows.captions_of(str(parse_json(stream.read(member.size)).get("url")), member.name)


def _attach_shard(shard: str, target: Path, rows: _Rows, left_out: LeftOut) -> int:
    """Writes one tar, and returns the number of its samples."""
    index = index_shard(shard, need_captions=False)
    for harm in index.damage:
        left_out.add(harm)
    with open_shard(shard) as stream:
        documents = _documents(shard, stream, index, rows, left_out)
        if documents:
            with replace_when_complete(target) as partial:
                _copy(shard, stream, partial, index, documents)
    return len(documents)


def _copy(shard: str, stream: BinaryIO, target: Path, index: ShardIndex, documents: Mapping[int, bytes]) -> None:
    """Writes the samples that have a new JSON, with all their members."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as out:
        kept = {split_name(name)[0]: number for number, name in enumerate(index.names) if number in documents}
        dropped = {harm.place for harm in index.damage}
        for member in read_members(shard, stream):
            if isinstance(member, Damage):
                continue
            key, kind = split_name(member.name)
            number = kept.get(key)
            if number is None:
                continue
            if member.offset_data != index.spans[number][f"{kind}_offset"] if kind else member.name in dropped:
                continue  # a second picture, or a sample with a dot in its key
            if kind == "json":
                out.addfile(_resized(member, len(documents[number])), io.BytesIO(documents[number]))
            else:
                stream.seek(member.offset_data)
                out.addfile(member, stream)


def _documents(shard: str, stream: BinaryIO, index: ShardIndex, rows: _Rows, left_out: LeftOut) -> dict[int, bytes]:
    """The new JSON of each sample that has a row, by the sample's number."""
    documents = {}
    for number, (span, name) in enumerate(zip(index.spans, index.names, strict=True)):
        stream.seek(int(span["json_offset"]))
        document = parse_json(stream.read(int(span["json_size"])))
        try:
            document |= rows.captions_of(str(document.get("url")), name)
            sentences_of(document)
            data = json.dumps(document).encode()
            if len(data) > MOST_JSON:
                raise DatasetError("json is too large")
        except DatasetError as error:
            left_out.add(Damage(shard, name, str(error)))
            continue
        documents[number] = data
    return documents


def _resized(member: tarfile.TarInfo, size: int) -> tarfile.TarInfo:
    """A member's header for other data."""
    member = copy.copy(member)
    member.size = size
    member.pax_headers = {name: value for name, value in member.pax_headers.items() if name != "size"}
    return member
