"""Samples of WebDataset tars, by number through an index or one tar from end to end. Imports no JAX."""

from __future__ import annotations

import bisect
import collections
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flair_jax.bucket_reads import ask, filesystem, is_url
from flair_jax.data.captions import sentences_of
from flair_jax.data.shards import expand_shards, open_shard
from flair_jax.data.sources import Record
from flair_jax.data.tar_index import ShardIndex, build_index, parse_json
from flair_jax.data.tar_index_files import load_spans
from flair_jax.data.tar_members import name_in
from flair_jax.errors import DatasetError

# Both members of a sample are read at once, with the bytes between them, if those are no more than this.
_GAP = 2**16
_OPEN_FILES = 64
# At once, of a process, to a bucket.
_REQUESTS = 32


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

        What was left out is in `damage`; `beside` counts the members that stand beside a sample and are not read.

        Args:
          pattern: see `expand_shards`.
          base: folder of relative paths.
          index_dir: where the indexes are, a folder or URL; "": beside each tar, or in ~/.cache/flair_jax/tars if
            nothing can be written there.
          processes: how many make them; 0: one for each core.
          progress: show a progress bar.

        Raises:
          DatasetError: if a tar cannot be read.
        """
        self.shards = expand_shards(pattern, base)
        made = build_index(self.shards, index_dir, processes=processes, progress=progress)
        self.damage = [harm for index in made for harm in index.damage]
        self.beside = sum(index.beside for index in made)
        self._spans = [index.spans for index in made]
        self._starts = list(itertools.accumulate((index.samples for index in made), initial=0))
        self._pattern = pattern
        self._opened: dict[str, int] = {}
        self.concurrent_reads = _REQUESTS if all(map(is_url, self.shards)) else 0

    def __len__(self) -> int:
        return self._starts[-1]

    def require_samples(self) -> None:
        """Makes sure that there is a usable sample; raises DatasetError, with the reasons, if there is none."""
        if not len(self):
            counts = collections.Counter(harm.reason for harm in self.damage).most_common()
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in counts)
            raise DatasetError(f"{self._pattern}: no usable sample ({reasons}); `flair-jax data check` names each")

    def __getitem__(self, index: int) -> Record:
        shard, text, picture, _ = self._find(index)
        pieces = self._read(shard, [text, picture])
        try:
            document = parse_json(pieces[0])
            sentences = sentences_of(document)
        except DatasetError as error:
            raise DatasetError(f"{self.where(index)}: {error}; the tar changed after it was indexed") from None
        return Record(pieces[1], sentences, str(document.get("url") or ""))

    def where(self, index: int) -> str:
        """The tar and member of a sample, for messages."""
        shard = self._find(index)[0]
        return f"{shard}: {self.member(index)}"

    def member(self, index: int) -> str:
        """Name of a sample's picture, from the headers in front of it."""
        shard, _, (offset, _), header = self._find(index)
        (headers,) = self._read(shard, [(header, offset - header)])
        return name_in(headers)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def _find(self, index: int) -> tuple[str, tuple[int, int], tuple[int, int], int]:
        """The tar of a sample, offset and size in it of the JSON and of the picture, and where its headers begin."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        span = load_spans(self._spans[number])[index - self._starts[number]].item()
        return self.shards[number], span[:2], span[2:4], span[4]

    def _read(self, shard: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        first, last = min(start for start, _ in spans), max(start + size for start, size in spans)
        if last - first <= sum(size for _, size in spans) + _GAP:
            whole = self._read_one(shard, first, last - first)
            return [whole[start - first : start - first + size] for start, size in spans]
        return [self._read_one(shard, start, size) for start, size in spans]

    def _read_one(self, shard: str, start: int, size: int) -> bytes:
        files, path = filesystem(shard)
        try:
            if is_url(shard):
                return ask(shard, lambda: files.cat_file(path, start=start, end=start + size))
            if shard not in self._opened:
                while len(self._opened) >= _OPEN_FILES:
                    os.close(self._opened.pop(next(iter(self._opened))))
                self._opened[shard] = os.open(path, os.O_RDONLY)
            return os.pread(self._opened[shard], size, start)
        except OSError as error:
            raise DatasetError(f"{shard}: cannot be read ({error})") from error


def read_shard(shard: str, index: ShardIndex) -> Iterator[tuple[int, str, bytes, dict[str, Any]]]:
    """All usable samples of a tar in order: number, name of the picture, its bytes, JSON.

    Args:
      shard: path or URL.
      index: of it, from `index_shard`.
    """
    with open_shard(shard) as stream:
        for number, (span, name) in enumerate(zip(index.spans, index.names, strict=True)):
            parts = {}
            for part in sorted(("json", "picture"), key=lambda part: int(span[f"{part}_offset"])):
                stream.seek(int(span[f"{part}_offset"]))
                parts[part] = stream.read(int(span[f"{part}_size"]))
            yield number, name, parts["picture"], parse_json(parts["json"])
