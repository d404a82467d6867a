"""Samples of WebDataset tars, by number through an index or one tar from end to end. Imports no JAX."""

from __future__ import annotations

import bisect
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flair_jax.data.captions import sentences_of
from flair_jax.data.shards import expand_shards, filesystem, is_local, open_shard
from flair_jax.data.sources import Record
from flair_jax.data.tar_index import Damage, build_index, index_shard, load_spans, parse_json
from flair_jax.errors import DatasetError

# One read takes both members of a sample, and what lies between them, if that is no more.
_GAP = 2**16
_OPEN_FILES = 64


class TarSource:
    """Samples of tars by number, in the tars' order; see `flair_jax.data.sources.Source`."""

    def __init__(
        self,
        pattern: str,
        base: str | Path = "",
        index_dir: str | Path = "",
        *,
        processes: int = 0,
        progress: bool = True,
    ) -> None:
        """Reads the index of each tar, and makes those that are missing or outdated.

        Args:
          pattern: see `expand_shards`.
          base: folder of relative paths.
          index_dir: where the indexes are; "": beside each tar, or in ~/.cache/flair_jax/tars if that cannot be.
          processes: how many make them; 0: one for each core.
          progress: show a progress bar.

        Raises:
          DatasetError: if a tar cannot be opened, or none holds a usable sample.
        """
        self.shards = expand_shards(pattern, base)
        made = build_index(self.shards, index_dir, processes=processes, progress=progress)
        self.damage = [harm for _, _, damage in made for harm in damage]
        self._spans = [path for path, _, _ in made]
        self._starts = list(itertools.accumulate((count for _, count, _ in made), initial=0))
        if not len(self):
            raise DatasetError(f"{pattern}: no usable sample; `flair-jax data check` says why")
        self._opened: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        shard, text, picture = self._find(index)
        pieces = self._read(shard, [text, picture])
        try:
            document = parse_json(pieces[0])
            sentences = sentences_of(document)
        except DatasetError as error:
            raise DatasetError(f"{self.where(index)}: {error}; the tar changed after it was indexed") from None
        return Record(pieces[1], sentences, str(document.get("url") or ""))

    def where(self, index: int) -> str:
        """The tar and member of a sample, for messages."""
        shard, _, _ = self._find(index)
        return f"{shard}: {self.member(index)}"

    def member(self, index: int) -> str:
        """Name of a sample's picture, from the header in front of it."""
        shard, _, (offset, _) = self._find(index)
        (header,) = self._read(shard, [(offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)])
        return _member_name(header)

    def shard_ranges(self) -> Iterator[tuple[str, int, int]]:
        """Each tar, with the number of its first sample and of the one after its last."""
        yield from zip(self.shards, self._starts[:-1], self._starts[1:], strict=True)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def _find(self, index: int) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """The tar of a sample, and offset and size in it of the JSON and of the picture."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        span = load_spans(self._spans[number])[index - self._starts[number]].item()
        return self.shards[number], span[:2], span[2:]

    def _read(self, shard: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        first, last = min(start for start, _ in spans), max(start + size for start, size in spans)
        if last - first <= sum(size for _, size in spans) + _GAP:
            whole = self._read_one(shard, first, last - first)
            return [whole[start - first : start - first + size] for start, size in spans]
        return [self._read_one(shard, start, size) for start, size in spans]

    def _read_one(self, shard: str, start: int, size: int) -> bytes:
        files, path = filesystem(shard)
        try:
            if not is_local(shard):
                return files.cat_file(path, start=start, end=start + size)
            if shard not in self._opened:
                while len(self._opened) >= _OPEN_FILES:
                    os.close(self._opened.pop(next(iter(self._opened))))
                self._opened[shard] = os.open(path, os.O_RDONLY)
            return os.pread(self._opened[shard], size, start)
        except OSError as error:
            raise DatasetError(f"{shard}: cannot be read ({error})") from error


def read_shard(shard: str, *, need_captions: bool = True) -> Iterator[tuple[int, str, bytes, dict[str, Any]] | Damage]:
    """All usable samples of a tar in order (number, name of the picture, its bytes, JSON), after the damage.

    See `index_shard`.
    """
    index = index_shard(shard, need_captions=need_captions)
    yield from index.damage
    with open_shard(shard) as stream:
        for number, span in enumerate(index.spans):
            stream.seek(int(span["picture_offset"]) - tarfile.BLOCKSIZE)
            name = _member_name(stream.read(tarfile.BLOCKSIZE))
            picture = stream.read(int(span["picture_size"]))
            stream.seek(int(span["json_offset"]))
            yield number, name, picture, parse_json(stream.read(int(span["json_size"])))


def _member_name(header: bytes) -> str:
    return tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
