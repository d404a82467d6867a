"""Tables of captions with a column of picture addresses, and the table that img2dataset downloads from."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from flair_jax.data.build.table_rows import raw_rows
from flair_jax.data.captions import CAPTION_LISTS, fault_of, split_sentences
from flair_jax.data.damage import Damage, LeftOut
from flair_jax.errors import DatasetError
from flair_jax.files import keep_inputs, replace_when_complete
from flair_jax.progress import ProgressBar

ADDRESS = "Image Path"
_BLOCK = 10_000
# An address, and sentences by caption column.
Row = tuple[str, dict[str, list[str]]]


def read_table(path: Path) -> Iterator[Row | Damage]:
    """The usable rows of a caption table, and the unusable ones, each with the reason.

    Every cell is text, whatever it looks like: a caption, or a list of captions, or such a list written as text.

    Args:
      path: .csv, .tsv or .jsonl in UTF-8 or UTF-16, each also as .gz; or .parquet.

    Raises:
      DatasetError: if the file cannot be read, or lacks the column `Image Path` or all caption columns.
    """
    for where, cells in raw_rows(path, ADDRESS, CAPTION_LISTS):
        yield Damage(str(path), where, cells) if isinstance(cells, str) else _usable(path, where, cells)


def _usable(path: Path, where: str, cells: Mapping[str, object]) -> Row | Damage:
    column, captions = ADDRESS, {}
    try:
        address = _address(cells.get(ADDRESS))
        for column in CAPTION_LISTS:
            if sentences := sentences_in(cells.get(column)):
                captions[column] = sentences
    except DatasetError as error:
        return Damage(str(path), f"{where}, {column}", str(error))
    return (address, captions) if captions else Damage(str(path), where, "no caption")


def _address(cell: object) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise DatasetError("no address")
    if not isinstance(cell, str):
        raise DatasetError("not a text")
    if fault := fault_of(cell):
        raise DatasetError(fault)
    return cell


def sentences_in(cell: object) -> list[str]:
    """Sentences of a cell: a text, or a list of texts, or a list written as text.

    Raises:
      DatasetError: if it is none of these; the message is the reason alone.
    """
    texts = _list_in(cell) if isinstance(cell, str) else () if cell is None else cell
    if not isinstance(texts, (list, tuple)) or not all(text is None or isinstance(text, str) for text in texts):
        raise DatasetError("neither a text nor a list of texts")
    sentences = [part for text in texts if text for part in split_sentences(text)]
    if fault := fault_of("\n".join(sentences)):
        raise DatasetError(fault)
    return sentences


def _list_in(text: str) -> list[str | None]:
    """The list of texts that a text is, as JSON or Python writes one; or the text itself."""
    if text.startswith("["):
        for parse in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = parse(text)
                if isinstance(value, list) and all(each is None or isinstance(each, str) for each in value):
                    return value
    return [text]


def write_url_table(table: Path, target: Path) -> tuple[int, int, LeftOut]:
    """Writes the table that img2dataset downloads from: `url`, and the caption columns as lists of sentences.

    With `--save_additional_columns` naming these columns, img2dataset puts them into each sample's JSON.

    Returns:
      The number of rows, how many of them repeat an earlier row's address, and the rows that were left out.

    Raises:
      DatasetError: as `read_table`, if `target` is not .parquet, or if no row can be used.
    """
    if target.suffix != ".parquet":
        raise DatasetError(f"{target}: must end in .parquet")
    keep_inputs(target, [table])
    lists = pa.list_(pa.string())
    schema = pa.schema([("url", pa.string()), *((name, lists) for name in CAPTION_LISTS)])
    left_out, hashes = LeftOut(), [np.array([], np.uint64)]
    rows = iter(ProgressBar(read_table(table), description="table", unit="row"))
    with (
        replace_when_complete(target) as partial,
        partial.open("wb") as stream,  # pyarrow opens UTF-8 names only
        pyarrow.parquet.ParquetWriter(stream, schema) as writer,
    ):
        while block := list(itertools.islice(rows, _BLOCK)):
            filled = []
            for row in block:
                if isinstance(row, Damage):
                    left_out.add(row)
                else:
                    filled.append({"url": row[0], **row[1]})
            writer.write_table(pa.Table.from_pylist(filled, schema))
            hashes.append(np.array([_hash(each["url"]) for each in filled], np.uint64))
        require_rows(table, sum(map(len, hashes)), left_out)
    all_hashes = np.concatenate(hashes)
    return len(all_hashes), len(all_hashes) - len(np.unique(all_hashes)), left_out


def require_rows(table: Path, count: int, left_out: LeftOut) -> None:
    """Makes sure that a table has rows that can be used; raises DatasetError, with the reasons, if it has none."""
    if not count:
        reasons = "; ".join(f"{reason}: {number:,}" for reason, number in left_out.reasons.most_common())
        raise DatasetError(f"{table}: no row can be used ({reasons or 'it has none'})")


def _hash(address: str) -> int:
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest(), "little")
