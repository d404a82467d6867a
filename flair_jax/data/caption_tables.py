"""Tables of captions, CSV or Parquet with a column of picture addresses: for img2dataset, and into tars at hand."""

from __future__ import annotations

import ast
import collections
import contextlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from tqdm import tqdm

from flair_jax.data.captions import CAPTION_LISTS, split_sentences
from flair_jax.data.tar_index import Damage
from flair_jax.data.tars import read_shard
from flair_jax.errors import DatasetError
from flair_jax.files import replace_when_complete

ADDRESS = "Image Path"
_KINDS = (".csv", ".parquet")


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a caption table.

    Raises:
      DatasetError: if the file is missing or of another kind, or lacks the column `Image Path` or all caption columns.
    """
    if path.suffix not in _KINDS:
        raise DatasetError(f"{path}: a caption table is .csv or .parquet")
    try:
        if path.suffix == ".csv":
            options = pyarrow.csv.ParseOptions(newlines_in_values=True)
            batches: Any = pyarrow.csv.open_csv(path, parse_options=options)
            schema = batches.schema
        else:
            file = pyarrow.parquet.ParquetFile(path)
            batches, schema = file.iter_batches(), file.schema_arrow
        missing = [ADDRESS] if ADDRESS not in schema.names else []
        if not missing and not set(CAPTION_LISTS) & set(schema.names):
            missing = list(CAPTION_LISTS)
        if missing:
            raise DatasetError(f"{path}: no column {', '.join(missing)}; there are {', '.join(schema.names)}")
        for batch in batches:
            yield from batch.to_pylist()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from None


def captions_of_row(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Sentences of a table's row by caption column. A cell is a text, or a list, or a list written as text."""
    found = {}
    for name in CAPTION_LISTS:
        value = row.get(name)
        if isinstance(value, str) and value.startswith("["):
            # Otherwise a text that begins with a bracket.
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(value)
        texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        sentences = [part for text in texts if isinstance(text, str) for part in split_sentences(text)]
        if sentences:
            found[name] = sentences
    return found


def write_url_table(table: Path, target: Path) -> int:
    """Writes the table that img2dataset downloads from: `url`, and the caption columns as lists of sentences.

    With `--save_additional_columns` naming these columns, img2dataset puts them into each sample's JSON.

    Returns:
      The number of rows.

    Raises:
      DatasetError: as `read_table`, or if `target` is not .parquet.
    """
    if target.suffix != ".parquet":
        raise DatasetError(f"{target}: must end in .parquet")
    lists = pa.list_(pa.string())
    schema = pa.schema([("url", pa.string()), *((name, lists) for name in CAPTION_LISTS)])
    rows = 0
    with replace_when_complete(target) as partial, pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        for block in _blocks(iter(tqdm(read_table(table), desc="rows", unit="row")), 10_000):
            filled = [{"url": row[ADDRESS], **captions_of_row(row)} for row in block if row[ADDRESS]]
            writer.write_table(pa.Table.from_pylist(filled, schema))
            rows += len(filled)
    return rows


def attach(table: Path, shards: list[str], folder: Path) -> collections.Counter[str]:
    """Writes tars like those given, with each sample's captions from a table in its JSON.

    A row belongs to the sample whose JSON has its address as `url`, or whose key is the address's file name without
    ending. Samples that no row belongs to are left out. A tar that is there already is not written again.

    Args:
      table: see `read_table`.
      shards: tars.
      folder: where tars of the same names are written.

    Returns:
      Counts: "attached", "no captions", "damaged".

    Raises:
      DatasetError: as `read_table`, or if two tars have the same name.
    """
    names = [Path(shard).name for shard in shards]
    if len(set(names)) < len(names):
        raise DatasetError(f"{folder}: several tars have the same name; attach to each set in a folder of its own")
    captions: dict[str, dict[str, list[str]]] = {}
    for row in tqdm(read_table(table), desc="table", unit="row"):
        if row[ADDRESS]:
            captions[row[ADDRESS]] = captions_of_row(row)
    by_key = {_key(address): found for address, found in captions.items()}
    counts: collections.Counter[str] = collections.Counter()
    folder.mkdir(parents=True, exist_ok=True)
    for shard, name in tqdm(list(zip(shards, names, strict=True)), desc="attach", unit="tar"):
        if (folder / name).exists():
            counts["tars that were there"] += 1
            continue
        with replace_when_complete(folder / name) as partial:
            counts += _attach_shard(shard, partial, captions, by_key)
    return counts


def _attach_shard(
    shard: str,
    target: Path,
    captions: Mapping[str, Mapping[str, list[str]]],
    by_key: Mapping[str, Mapping[str, list[str]]],
) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    with tarfile.open(target, "w") as out:
        for each in read_shard(shard, need_captions=False):
            if isinstance(each, Damage):
                counts["damaged"] += 1
                continue
            _, name, picture, document = each
            found = captions.get(str(document.get("url"))) or by_key.get(_key(name))
            if not found:
                counts["no captions"] += 1
                continue
            stem = name.rpartition("/")[0] + name.rpartition("/")[1] + _key(name)
            _add(out, name, picture)
            _add(out, f"{stem}.json", json.dumps({**document, **found}).encode())
            counts["attached"] += 1
    return counts


def _add(out: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    out.addfile(member, io.BytesIO(data))


def _key(address: str) -> str:
    """File name of an address up to its first dot, as WebDataset's keys."""
    return address.rpartition("/")[2].partition(".")[0]


def _blocks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while block := list(itertools.islice(rows, size)):
        yield block
