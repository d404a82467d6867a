"""An index on disk, memory-mapped: global features, local tokens and the table of pictures. Imports no JAX.

INDEX/index.json               the shards that count; see `Manifest`
INDEX/00000/global.npy         float32 [n, D], as the model gives them, not normalised
INDEX/00000/local.npy          float16 [n, L, D], or the bits of bfloat16 as uint16 [n, L, D]
INDEX/00000/pictures.parquet   path, size, mtime_ns, norm: one row for each row of the arrays
INDEX/candidates.faiss         optional; see `flair_jax.search.candidates`
INDEX/broken.txt               what the last run could not read; absent if nothing
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flair_jax.errors import SearchIndexError
from flair_jax.files import absolute, expand, local_copy, replace_when_complete
from flair_jax.search.manifest import Manifest

_GLOBAL, _LOCAL, _TABLE = "global.npy", "local.npy", "pictures.parquet"
TABLE_SCHEMA = pa.schema(
    [("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("norm", pa.float32())]
)

# How many mapped files are kept open; each holds a file descriptor, of which a process may often have 1024.
_OPEN_FILES = 256


def write_shard(folder: Path, table: pa.Table, features: np.ndarray, local: np.ndarray) -> None:
    """Writes one shard, whole or not at all: features [n, D], and local tokens [n, L, D] as `to_stored` gives them."""
    with replace_when_complete(folder) as partial:
        partial.mkdir()
        np.save(partial / _GLOBAL, features)
        np.save(partial / _LOCAL, local)
        pq.write_table(table.cast(TABLE_SCHEMA), partial / _TABLE)


def to_stored(local: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 local tokens [n, L, D] as a shard stores them.

    Raises:
      SearchIndexError: if they are not finite, or too large for the dtype.
    """
    with np.errstate(over="ignore"):  # reported below
        stored = local.astype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    if not np.isfinite(stored).all():
        if np.isfinite(local).all():
            raise SearchIndexError("local tokens are too large for float16; index with --local-dtype bfloat16")
        raise SearchIndexError("the checkpoint gives features that are not finite; nothing can be searched by them")
    return stored if dtype == "float16" else stored.view(np.uint16)


class Shard:
    """One folder of an index."""

    def __init__(self, folder: Path) -> None:
        """Opens it, reading the table alone.

        Raises:
          SearchIndexError: if the table cannot be read.
        """
        self.folder = folder
        try:
            self.table = pq.read_table(folder / _TABLE, schema=TABLE_SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def __len__(self) -> int:
        return len(self.table)

    def features(self) -> np.memmap:
        """Global features [n, D], mapped."""
        array = self._map(_GLOBAL)
        _will_need(array, slice(0, len(array)))
        return array

    def local(self) -> np.memmap:
        """Local tokens [n, L, D] as they are stored, mapped."""
        return self._map(_LOCAL)

    def _map(self, name: str) -> np.memmap:
        try:
            array: np.memmap = np.load(self.folder / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        if len(array) != len(self):
            raise self._damaged(f"{name} has {len(array)} rows, the table {len(self)}")
        return array

    def _damaged(self, why: object) -> SearchIndexError:
        return SearchIndexError(
            f"{self.folder}: a shard of the index is damaged, or was replaced since it was opened; open it again, or "
            f"run `flair-jax index` again, which mends it ({why})"
        )


def _will_need(array: np.memmap, rows: slice) -> None:
    """Asks the system to read rows of a mapped array, without waiting for them.

    Otherwise each page is read when it is touched: after many such faults Linux stops reading ahead and reads 4 kB at a
    time, which took 11 times as long for 200 pictures of 0.2 MB.
    """
    start, stop = (array.offset + row * array.strides[0] for row in (rows.start, rows.stop))
    aligned = start - start % mmap.PAGESIZE
    mapped = cast(mmap.mmap, array.base)
    mapped.madvise(mmap.MADV_WILLNEED, aligned, stop - aligned)


class SearchIndex:
    """An index that is open for reading. Any number of threads may use it.

    Rows are numbered through all shards in order.

    Attributes:
      path: its folder.
      manifest: its description.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """See `open`."""
        self.path, self.manifest = path, manifest
        self._shards = shards = [Shard(path / name) for name in manifest.shards]
        self._starts = np.cumsum([0, *map(len, self._shards)])
        self._table = pa.concat_tables([TABLE_SCHEMA.empty_table(), *(shard.table for shard in self._shards)])
        self._norms = np.maximum(self._table["norm"].to_numpy(), np.float32(1e-12))
        # Not of `self`, which would keep files open until the next garbage collection.
        self._features = functools.lru_cache(_OPEN_FILES)(lambda number: shards[number].features())
        self._local = functools.lru_cache(_OPEN_FILES)(lambda number: shards[number].local())

    @classmethod
    def open(cls, path: str | Path) -> SearchIndex:
        """Opens an index made by `flair-jax index`. Reads the tables of pictures; features stay on disk.

        An index whose first run is still at work, or was stopped, can be searched as far as it got; see `complete`.

        Raises:
          SearchIndexError: if there is none, or it is damaged.
        """
        path = absolute(local_copy(expand(path)))
        return cls(path, Manifest.read(path))

    def __len__(self) -> int:
        """Pictures."""
        return int(self._starts[-1])

    @property
    def complete(self) -> bool:
        """False if the run that last changed the index was stopped, or is still at work."""
        return self.manifest.complete

    def picture(self, row: int) -> str:
        """A picture's path, absolute."""
        return os.path.join(self.manifest.root, self._table["path"][row].as_py())

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows, and their global features [n, D], float32, normalised; one shard after the other."""
        for number in range(len(self._shards)):
            rows = slice(int(self._starts[number]), int(self._starts[number + 1]))
            yield rows, self._features(number) / self._norms[rows, None]

    def global_scores(self, text: np.ndarray) -> np.ndarray:
        """Cosines of all global features with one text [D] -> float32 [rows]."""
        text = text / max(np.linalg.norm(text), 1e-12)
        dots = [self._features(number) @ text for number in range(len(self._shards))]
        return np.concatenate([np.zeros(0, np.float32), *dots]) / self._norms

    def global_features(self, rows: np.ndarray) -> np.ndarray:
        """Global features of some rows, float32 [K, D], normalised."""
        chosen = np.empty((len(rows), self.manifest.embed_dim), np.float32)
        for position, (number, row) in enumerate(self._locate(rows)):
            chosen[position] = self._features(number)[row]
        return chosen / self._norms[rows, None]

    def local_tokens(self, rows: np.ndarray) -> np.ndarray:
        """Local tokens of some rows, float16 or bfloat16 [K, L, D]; only these are read from disk."""
        manifest = self.manifest
        stored = np.float16 if manifest.local_dtype == "float16" else np.uint16
        tokens = np.empty((len(rows), manifest.local_tokens, manifest.embed_dim), stored)
        places = self._locate(rows)
        for number, row in places:  # all are asked for before the first is waited for
            _will_need(self._local(number), slice(row, row + 1))
        for position, (number, row) in enumerate(places):
            tokens[position] = self._local(number)[row]
        return tokens if stored is np.float16 else tokens.view(ml_dtypes.bfloat16)

    def _locate(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """The shard of each row, and its place there."""
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        return list(zip(numbers.tolist(), (rows - self._starts[numbers]).tolist(), strict=True))
