"""Rows of a table file as text: CSV, TSV, JSON lines, Parquet. Imports no JAX.

Types are never guessed, and an error in a row costs that row only.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet

from flair_jax.errors import DatasetError, plural, printable

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_KINDS = (*_DELIMITERS, ".jsonl", ".parquet")
# Characters of a line or a field; nothing longer is a row of captions.
_LONGEST = 2**24
_TOO_LONG = f"a line of more than {_LONGEST:,} characters"
_MOST_SHOWN = 300  # of a header, which may be any file's first line

# Where a row is, and its cells by column, or why it has none.
RawRow = tuple[str, dict[str, Any] | str]


def raw_rows(path: Path, key: str, columns: Sequence[str]) -> Iterator[RawRow]:
    """All rows of a table.

    Bytes that are not UTF-8 become lone surrogates (`surrogateescape`), so that only their own cells are broken.

    Args:
      path: .csv, .tsv or .jsonl, each also as .gz; or .parquet.
      key: a column that must exist.
      columns: at least one of these must exist; no other column is read, and a warning names those.

    Raises:
      DatasetError: if the file cannot be read, or lacks these columns.
    """
    kind = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if kind not in _KINDS:
        raise DatasetError(f"{path}: a caption table is {', '.join(_KINDS[:-1])} (also as .gz) or {_KINDS[-1]}")
    if path.exists() and not path.is_file():  # a pipe would keep whoever opens it waiting
        raise DatasetError(f"{path}: is not a file")
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path, key, columns)
            return
        with contextlib.closing(_open_text(path)) as stream:
            if kind == ".jsonl":
                yield from _json_rows(path, stream, (key, *columns))
            else:
                yield from _csv_rows(path, stream, _DELIMITERS[kind], key, columns)
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from None


def _open_text(path: Path) -> TextIO:
    stream = (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb")
    start = stream.peek(4)[:4]
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return io.TextIOWrapper(stream, "utf-16", "surrogatepass", newline="")
    if b"\0" in start:  # every other byte of Latin letters, without a mark at the start
        return io.TextIOWrapper(stream, "utf-16-be" if start[0] == 0 else "utf-16-le", "surrogatepass", newline="")
    return io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")


def _check_columns(path: Path, found: Sequence[str], key: str, columns: Sequence[str]) -> None:
    missing = [] if key in found else [key]
    if not missing and not set(columns) & set(found):
        missing = list(columns)
    if missing:
        there = printable(", ".join(found)[:_MOST_SHOWN])
        raise DatasetError(f"{path}: no column {', '.join(missing)}; there are {there}")
    twice = [name for name in (key, *columns) if found.count(name) > 1]
    if twice:
        raise DatasetError(f"{path}: the column {twice[0]} is there twice; rename one")
    _name_unread(path, [name for name in found if name not in (key, *columns)])


def _name_unread(path: Path, names: Sequence[str]) -> None:
    """Warns of columns that are not read, so that a misspelt caption column does not go unnoticed."""
    if names:
        shown = printable(", ".join(names)[:_MOST_SHOWN])
        logging.warning("%s: does not read %s: %s", path, plural(len(names), "column"), shown)


def _read_line(stream: TextIO) -> str:
    """The next line; of one that is too long, only its start (see `_is_too_long`), and the rest is skipped."""
    line = rest = stream.readline(_LONGEST)
    while _is_too_long(rest):
        rest = stream.readline(_LONGEST)
    return line


def _is_too_long(line: str) -> bool:
    return len(line) == _LONGEST and line[-1] not in "\r\n"


class _Lines:
    """Lines of a file; those after the first line of a broken row can be read again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._again: collections.deque[str] = collections.deque()
        self._row: list[str] = []
        self.first = 1  # number of the first line of the row

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else _read_line(self._stream)
        if not line:
            raise StopIteration
        self._row.append(line)
        if _is_too_long(line):
            raise csv.Error(_TOO_LONG)
        return line

    def next_row(self) -> None:
        self.first += len(self._row)
        self._row.clear()

    @property
    def is_one(self) -> bool:
        """Whether the row has one line so far."""
        return len(self._row) == 1

    def give_back(self) -> None:
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]


def _csv_rows(path: Path, stream: TextIO, delimiter: str, key: str, columns: Sequence[str]) -> Iterator[RawRow]:
    csv.field_size_limit(_LONGEST)
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    places: dict[str, int] = {}
    header: list[str] = []
    number = 0
    while True:
        lines.next_row()
        where = f"row {number} (line {lines.first})"
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = _TOO_LONG if str(error) == _TOO_LONG and lines.is_one else "quotes that do not balance"
            if not header:
                raise DatasetError(f"{path}: its first line cannot be read: {reason}") from None
            lines.give_back()
            number += 1
            yield where, reason
            continue
        if row is None:
            break
        if not row:  # a blank line
            continue
        number += 1
        if not header:
            header = row
            _check_columns(path, header, key, columns)
            places = {name: header.index(name) for name in (key, *columns) if name in header}
        elif len(row) != len(header):
            yield where, f"too {'few' if len(row) < len(header) else 'many'} fields"
        else:
            yield where, {name: row[place] for name, place in places.items()}
    if not header:
        raise DatasetError(f"{path}: is empty")


def _json_rows(path: Path, stream: TextIO, columns: Sequence[str]) -> Iterator[RawRow]:
    unread: dict[str, None] = {}
    for number, line in enumerate(iter(lambda: _read_line(stream), ""), start=1):
        if _is_too_long(line):
            yield f"line {number}", _TOO_LONG
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield f"line {number}", "not JSON"
            continue
        if isinstance(record, dict):
            if len(unread) < _MOST_SHOWN:
                unread |= dict.fromkeys(name for name in record if name not in columns)
            yield f"line {number}", {name: record.get(name) for name in columns}
        else:
            yield f"line {number}", "JSON is not an object"
    _name_unread(path, list(unread))


def _parquet_rows(path: Path, key: str, columns: Sequence[str]) -> Iterator[RawRow]:
    number = 0
    with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:  # pyarrow opens UTF-8 names only
        schema = file.schema_arrow
        _check_columns(path, schema.names, key, columns)
        names = [name for name in (key, *columns) if name in schema.names]
        kinds = {name: _as_bytes(schema.field(name).type) for name in names}
        for name, kind in kinds.items():
            if kind is None:
                raise DatasetError(f"{path}: the column {name} holds {schema.field(name).type}, not texts")
        for batch in file.iter_batches(columns=names):
            # As bytes, because one text that is not UTF-8 would stop its whole block.
            cells = [batch.column(name).cast(kinds[name]).to_pylist() for name in names]
            for row in zip(*cells, strict=True):
                number += 1
                yield f"row {number}", dict(zip(names, map(_decoded, row), strict=True))


def _as_bytes(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a column of texts, or of lists of them, is read; None for others."""
    types = pa.types
    if types.is_dictionary(kind):
        return _as_bytes(kind.value_type)
    if any(check(kind) for check in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        inner = _as_bytes(kind.value_type)
        return None if inner is None else pa.list_(inner)
    texts = (
        *(types.is_string, types.is_large_string, types.is_string_view, types.is_null),
        *(types.is_binary, types.is_large_binary, types.is_binary_view),
    )
    return pa.large_binary() if any(check(kind) for check in texts) else None


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return [_decoded(each) for each in value] if isinstance(value, list) else value
