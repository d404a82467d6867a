"""Parquet files with pictures in them, as Hugging Face's `datasets` writes them. Imports no JAX."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import itertools
import logging
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flair_jax.bucket_reads import BucketFile
from flair_jax.buckets import is_remote
from flair_jax.data.formats import read_file
from flair_jax.data.names import is_hidden
from flair_jax.data.sets.records import CAPTIONS, captions, one_of_captions, require_words
from flair_jax.data.sets.retrieval_data import Pair, StoredPicture
from flair_jax.errors import DatasetError, ImageError, plural
from flair_jax.files import version_of

# Where the files of a data set lie below its folder on the hub: pushed ones, and those that the hub converts itself.
PARQUET = ("data/*.parquet", "default/test/*.parquet", "default/validation/*.parquet", "default/train/*.parquet")
_SPLITS = ("test", "val")  # that are to be preferred, by the start of a file's name
_BUFFER = 2**20
_KEPT = 4  # row groups in memory
_BATCH = 64  # rows whose pictures are hashed at once


@dataclasses.dataclass(frozen=True)
class ParquetPicture(StoredPicture):
    """The picture in one row.

    Attributes:
      folder: the set's.
      file: that holds it.
      group: number of its row group.
      row: number in the row group.
      number: number in the file.
    """

    folder: Path
    file: Path
    group: int
    row: int
    number: int

    @property
    def name(self) -> str:
        """The file and the row, from 1."""
        return f"{self.file}, row {self.number + 1}"

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """The picture's own file; without bytes in the row, that at the row's path.

        Raises:
          ImageError: if the file is damaged or has no picture there.
        """
        try:
            value = _groups.column(self.file, self.group)[self.row].as_py()
            path = value["path"] if isinstance(value, dict) else None
            data = value["bytes"] if isinstance(value, dict) else value
            if data is None and path:
                return read_file(self.folder / path)
        except FileNotFoundError as error:
            raise ImageError(f"{error.filename}: no such picture", "picture is missing") from None
        except (OSError, pa.ArrowException, IndexError) as error:
            raise ImageError(f"cannot be read from its file ({error})", "picture is broken") from None
        if data is None:
            raise ImageError("the row holds no picture", "picture is missing")
        return bytes(data)


_Row: TypeAlias = tuple[ParquetPicture, str | None, list[str]]


class _Groups:
    """The last few row groups' pictures, since they are read in order, by several threads."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[tuple[Path, int | str, int], Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def column(self, file: Path, group: int) -> Any:
        with self._lock:
            key = (file, version_of(file), group)
            if key not in self._kept:
                with pq.ParquetFile(_source(file)) as opened:
                    self._kept[key] = opened.read_row_group(group, columns=["image"]).column("image")
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


_groups = _Groups()


def read_parquet(folder: Path, first: Path) -> Iterator[Pair]:
    """Pairs of the columns `image` and `caption`, or `captions`, each a text or a list of texts.

    `image` is what the feature `Image` of `datasets` stores, a struct of `bytes` and `path` (huggingface.co/docs/
    datasets, "Image" in the main classes): without bytes, the path is one from the folder. Bytes alone are taken too.
    Rows are pictures of their own, unless their paths, if they have any, and bytes are the same.

    Args:
      folder: the set's.
      first: one of the files; those beside it are read too, if there are any of a test or validation split only these.
    """
    found: list[_Row] = []
    for file in _choose(first.parent):
        try:
            with pq.ParquetFile(_source(file)) as opened:
                found += _rows(folder, file, opened)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{file}: cannot be read as parquet ({error})") from None
    often = collections.Counter(path for _, path, _ in found)
    seen: dict[tuple[str | None, bytes], ParquetPicture] = {}
    for file, rows in itertools.groupby(found, key=lambda row: row[0].file):
        listed = list(rows)
        digests = _digests(file, {picture.group for picture, path, _ in listed if often[path] > 1})
        for picture, path, texts in listed:
            digest = digests.get((picture.group, picture.row))
            joins = often[path] > 1 and digest is not None and (digest or path)
            same = seen.setdefault((path, digest or b""), picture) if joins else picture
            for text in texts:
                yield same, text


def has_pairs(file: Path) -> bool:
    """Whether a file has the columns, or is damaged, which `read_parquet` says."""
    try:
        columns = pq.read_schema(_source(file)).names
    except (OSError, pa.ArrowException):
        return True
    return "image" in columns and not set(CAPTIONS).isdisjoint(columns)


def _source(file: Path) -> Path | BinaryIO:
    """What PyArrow can read: a path on a disk, or an object in a bucket by its ranges."""
    return io.BufferedReader(BucketFile(str(file)), _BUFFER) if is_remote(file) else file


def _choose(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.parquet") if not is_hidden(path.name))
    for split in _SPLITS:
        if chosen := [path for path in files if path.name.startswith(split)]:
            if len(chosen) < len(files):
                others = plural(len(files) - len(chosen), "file")
                logging.warning("%s: passes over %s not named %s*", folder, others, split)
            return chosen
    return files


def _digests(file: Path, groups: Collection[int]) -> dict[tuple[int, int], bytes]:
    """Hashes of the pictures in some row groups by group and row, empty for rows without bytes.

    Those of a damaged group are left out; a picture that cannot be read is reported when all are.
    """
    digests: dict[tuple[int, int], bytes] = {}
    if not groups:
        return digests
    # A few rows at a time: row groups may hold gigabytes.
    with contextlib.suppress(OSError, pa.ArrowException), pq.ParquetFile(_source(file), buffer_size=_BUFFER) as opened:
        for group in sorted(groups):
            with contextlib.suppress(OSError, pa.ArrowException):
                row = 0
                for batch in opened.iter_batches(_BATCH, row_groups=[group], columns=["image"]):
                    image = batch.column("image")
                    for data in pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image:
                        digests[group, row] = hashlib.sha256(data.as_buffer()).digest() if data.is_valid else b""
                        row += 1
    return digests


def _rows(folder: Path, file: Path, opened: pq.ParquetFile) -> Iterator[_Row]:
    """Of each row the picture, its path, if it has one, and its captions."""
    columns = opened.schema_arrow.names
    name = one_of_captions(columns, str(file))
    if not name or "image" not in columns:
        raise DatasetError(f"{file}: needs the columns image and caption, has {', '.join(columns)}")
    kind = opened.schema_arrow.field("image").type
    stored = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not stored and not (pa.types.is_struct(kind) and {"bytes", "path"} <= {each.name for each in kind}):
        raise DatasetError(f"{file}: image must be a struct of bytes and path, or bytes, is {kind}")
    number = 0
    for group in range(opened.num_row_groups):
        texts = opened.read_row_group(group, columns=[name]).column(name).to_pylist()
        paths = [None] * len(texts) if stored else _paths(opened, group)
        for row, (text, path) in enumerate(zip(texts, paths, strict=True)):
            picture = ParquetPicture(folder, file, group, row, number)
            listed = captions({name: text}, name, picture.name)
            require_words(listed, picture.name)
            yield picture, path, listed
            number += 1


def _paths(opened: pq.ParquetFile, group: int) -> list[str | None]:
    column = opened.read_row_group(group, columns=["image.path"]).column("image")
    return [value and value["path"] for value in column.to_pylist()]
