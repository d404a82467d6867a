"""Changes an index: each shard appears whole, and counts once the manifest names it. Imports no JAX."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flair_jax.errors import SearchIndexError
from flair_jax.files import replace_when_complete
from flair_jax.search.candidates import FAISS_FILE
from flair_jax.search.manifest import Manifest
from flair_jax.search.store import TABLE_SCHEMA, Shard, to_stored, write_shard

BROKEN = "broken.txt"


class ShardWriter:
    """Writes an index. If killed, the index stays valid, at worst partly stale."""

    def __init__(self, index: Path, manifest: Manifest, shard_rows: int) -> None:
        """Opens an index, and clears an earlier, killed run's leftovers in it.

        Args:
          index: its folder.
          manifest: its state.
          shard_rows: pictures of a full shard.
        """
        self._index, self._manifest, self._shard_rows = index, manifest, shard_rows
        self._rows: list[tuple[str, int, int]] = []
        self._features: list[np.ndarray] = []
        self._local: list[np.ndarray] = []
        self._shards: list[Shard] = []
        for name in manifest.shards:
            try:
                shard = Shard(index / name)
                shard.features(), shard.local()
                self._shards.append(shard)
            except SearchIndexError:  # its pictures are embedded again
                continue
        if len(self._shards) < len(manifest.shards):
            self._commit(self._shards)
        self._clear()

    @property
    def free(self) -> int:
        """Number of rows that still fit in the current shard."""
        return self._shard_rows - len(self._rows)

    def names(self) -> set[str]:
        """Paths that the index holds."""
        return {name for shard in self._shards for name in shard.table["path"].to_pylist()}

    def keep(self, wanted: Callable[[tuple[str, int, int]], bool]) -> int:
        """Drops the rows (path, size, mtime_ns) that are not wanted, and returns their number."""
        dropped = 0
        for shard in list(self._shards):
            columns = (shard.table[name].to_pylist() for name in ("path", "size", "mtime_ns"))
            mask = np.array([wanted(row) for row in zip(*columns, strict=True)], bool)
            if not mask.all():
                dropped += int((~mask).sum())
                self._replace([shard], mask)
        return dropped

    def add(self, rows: Sequence[tuple[str, int, int]], tokens: np.ndarray) -> None:
        """Adds pictures, at most `free` of them.

        Args:
          rows: path, size, mtime_ns.
          tokens: float32 [B, 1 + L, D], the global token first.

        Raises:
          SearchIndexError: if the tokens cannot be stored.
        """
        self._local.append(to_stored(tokens[:, 1:], self._manifest.local_dtype))
        self._features.append(tokens[:, 0].copy())
        self._rows += rows
        if not self.free:
            self.flush()

    def flush(self) -> None:
        """Writes the pictures added since the last shard as a shard."""
        if not self._rows:
            return
        features = np.concatenate(self._features)
        names, sizes, times = zip(*self._rows, strict=True)
        table = pa.table([names, sizes, times, np.linalg.norm(features, axis=1)], names=TABLE_SCHEMA.names)
        self._commit([*self._shards, self._write(table, features, np.concatenate(self._local))])
        self._rows, self._features, self._local = [], [], []

    def merge(self) -> None:
        """Joins neighbouring shards that fit in one, so that many small updates do not leave many small shards."""
        start = 0
        while start < len(self._shards):
            stop, size = start + 1, len(self._shards[start])
            while stop < len(self._shards) and size + len(self._shards[stop]) <= self._shard_rows:
                size += len(self._shards[stop])
                stop += 1
            if stop - start > 1:
                self._replace(self._shards[start:stop], np.ones(size, bool))
            start += 1

    def finish(self, broken: Sequence[str]) -> None:
        """Marks the index as complete, and lists the pictures that could not be read."""
        if not self._manifest.complete:
            self._change(complete=True)
        if broken:
            with replace_when_complete(self._index / BROKEN) as partial:
                partial.write_text("".join(f"{line}\n" for line in broken), encoding="utf-8")
        else:
            (self._index / BROKEN).unlink(missing_ok=True)

    def _replace(self, old: list[Shard], mask: np.ndarray) -> None:
        """Replaces neighbouring shards by one shard of the rows that `mask` keeps, or by none if it keeps none."""
        new = []
        if mask.any():
            pieces = np.split(mask, np.cumsum([len(shard) for shard in old])[:-1])
            features, local = (
                np.concatenate([read(shard)[piece] for shard, piece in zip(old, pieces, strict=True)])
                for read in (Shard.features, Shard.local)
            )
            table = pa.concat_tables([shard.table for shard in old]).filter(pa.array(mask))
            new = [self._write(table, features, local)]
        at = self._shards.index(old[0])
        self._commit([*self._shards[:at], *new, *self._shards[at + len(old) :]])
        for shard in old:
            shutil.rmtree(shard.folder)

    def _write(self, table: pa.Table, features: np.ndarray, local: np.ndarray) -> Shard:
        folder = self._index / f"{self._manifest.next_shard:05d}"
        write_shard(folder, table, features, local)
        return Shard(folder)

    def _commit(self, shards: list[Shard]) -> None:
        self._shards = shards
        names = tuple(shard.folder.name for shard in shards)
        self._change(shards=names, next_shard=self._manifest.next_shard + 1, complete=False, faiss=False)

    def _change(self, **fields: Any) -> None:
        self._manifest = dataclasses.replace(self._manifest, **fields)
        self._manifest.write(self._index)

    def _clear(self) -> None:
        for entry in self._index.iterdir():
            name = entry.name.removeprefix(".").split(".partial-")[0]
            if entry.is_dir() and name not in self._manifest.shards and name.isdecimal():
                shutil.rmtree(entry)
        if not self._manifest.faiss:
            (self._index / FAISS_FILE).unlink(missing_ok=True)
