"""Features of pictures or texts in one file, `.npz` or `.parquet`, for use elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flair_jax.buckets import is_remote
from flair_jax.errors import DatasetError, FlairError, is_utf8
from flair_jax.files import no_file, replace_when_complete
from flair_jax.models.flair import Flair, Params
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, cut_off, embed_texts
from flair_jax.scoring.scorer import Retriever
from flair_jax.search.build import IndexSettings, IndexUpdate, update
from flair_jax.search.fingerprint import fingerprint
from flair_jax.search.manifest import Manifest
from flair_jax.search.pictures import Found, Picture, find_pictures, picture_at
from flair_jax.search.store import Shard

_TEXTS_PER_BLOCK = 4096
_MOST_NAMES = 2**30  # bytes of names in memory


class FeatureBlock(NamedTuple):
    """Some rows of the file: their names, and for each column an array [n, ...]."""

    names: list[str]
    columns: Mapping[str, np.ndarray]


def embed_pictures(
    sources: Sequence[str], output: Path, model: Flair, params: Params, settings: IndexSettings
) -> IndexUpdate:
    """Writes `path`, `global` and, with `settings.with_local`, `local` of pictures.

    While it works, features are kept in an index beside the output, so that a stopped run resumes where it was.

    Args:
      sources: pictures, and folders of pictures.
      output: file to write.
      model: embeds them.
      params: its parameters.
      settings: how.

    Raises:
      DatasetError: if a source does not exist, or no picture can be read.
      FlairError: if the output's ending is unknown, or one for which paths are too long.
    """
    write = writer_of(output)
    found = _collect(sources)
    _check_names(output, [picture.name for picture in found.pictures])
    unfinished = _unfinished(output, model, params, "local" if settings.with_local else "")
    outcome = update(unfinished, found, model, params, root="", checkpoint="", settings=settings)
    if not outcome.added + outcome.kept:
        listed = "\n  ".join(outcome.broken[:20])
        raise DatasetError(f"none of {len(found.pictures)} pictures can be read:\n  {listed}")
    shards = [Shard(unfinished / name) for name in Manifest.read(unfinished).shards]
    blocks = []
    for shard in shards:
        columns = {"global": shard.features(), **({"local": shard.local()} if settings.with_local else {})}
        blocks.append(FeatureBlock(shard.table["path"].to_pylist(), columns))
    write(output, "path", blocks)
    shutil.rmtree(unfinished)
    return dataclasses.replace(outcome, added=outcome.added + outcome.kept, kept=0, dropped=0)


class EmbeddedTexts(NamedTuple):
    """What was embedded.

    Attributes:
      texts: how many.
      cut_off: what the model did not read of them.
    """

    texts: int
    cut_off: CutOff


def embed_lines(file: Path, output: Path, model: Flair, params: Params, batch_size: int) -> EmbeddedTexts:
    """Writes `text` and `global`, float32 [D], of the texts in a file, one a line.

    Raises:
      DatasetError: if the file cannot be read as UTF-8, or has an empty line.
      FlairError: if the output's ending is unknown, or one for which texts are too long.
    """
    write = writer_of(output)
    texts = _read_lines(file)
    _check_names(output, texts)
    retriever = Retriever(model, params)
    store = BlockStore(_unfinished(output, model, params, "\n".join(texts)))
    blocks = []
    with ProgressBar(total=len(texts), description="texts", unit="text") as bar:
        for start in range(0, len(texts), _TEXTS_PER_BLOCK):
            some, name = texts[start : start + _TEXTS_PER_BLOCK], f"texts-{start:09d}"
            if name in store:
                bar.update(len(some))
            else:
                store.put(name, embed_texts(model, retriever, some, batch_size, bar))
            blocks.append(FeatureBlock(some, {"global": store.get(name)}))
    write(output, "text", blocks)
    store.remove()
    return EmbeddedTexts(len(texts), cut_off(texts, model.config.text))


def _unfinished(output: Path, model: Flair, params: Params, *more: str) -> Path:
    """Where features are kept until all are there: a folder for whatever they depend on."""
    parts = [fingerprint(model, params), str(model.config.dtype), *more]
    return Path(f"{output}.partial-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:16]}")


def _collect(sources: Sequence[str]) -> Found:
    """All pictures, each once, named as they were given, and messages about unusable ones."""
    together, pictures = Found(), dict[str, Picture]()

    def take(picture: Picture) -> None:
        together.repeated += picture.name in pictures
        pictures[picture.name] = picture

    for source in sources:
        if not source:  # a shell's variable that is not set, and to `Path` the current folder
            raise DatasetError("the name of a picture or folder is empty; name one")
        if Path(source).is_dir():
            below = find_pictures(Path(source))
            for picture in below.pictures:
                try:
                    take(picture_at(picture.path, picture.path))
                except (DatasetError, OSError) as error:  # the folder's own name is not UTF-8; or just removed
                    together.unusable.append(str(error))
            together.unusable += below.unusable
            together.others += below.others
        else:
            try:
                take(picture_at(source, source))
            except OSError as error:
                raise DatasetError(f"{source}: no such picture or folder ({error.strerror})") from None
    together.pictures = list(pictures.values())
    return together


def _read_lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # which makes all three ends of lines "\n"
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{file}: cannot be read as text in UTF-8, one a line ({reason})") from None
    lines = text.removesuffix("\n").split("\n")  # at nothing else: `splitlines` also takes a form feed and others
    if not text:
        raise DatasetError(f"{file}: is empty; write one text a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DatasetError(f"{file}: line {number} is empty; each line is a text, and a row of the output")
    return lines


def writer_of(output: Path) -> Writer:
    """The function that writes files of this ending.

    Raises:
      FlairError: if there is none, or the output cannot be written as a file.
    """
    if output.suffix not in _WRITERS:
        raise FlairError(f"--output {output}: name a file that ends in {' or '.join(_WRITERS)}")
    if is_remote(output):
        raise FlairError(f"--output {output}: features are written to a disk; copy the file to the bucket then")
    if reason := no_file(output):
        raise FlairError(f"--output {output}: {reason}; name a file")
    if not is_utf8(str(output.absolute())):
        raise FlairError(f"--output {output}: its name must be UTF-8, with the folders above it; choose another")
    return _WRITERS[output.suffix]


def _check_names(output: Path, names: Sequence[str]) -> None:
    """Raises FlairError if names are too long for `.npz`, in which each takes as much as the longest."""
    longest = max(map(len, names), default=0)
    if output.suffix == ".npz" and 4 * longest * len(names) > _MOST_NAMES:
        raise FlairError(
            f"--output {output}: the longest of {len(names):,} texts or paths has {longest:,} letters, and .npz would "
            "keep as many for each; name a file that ends in .parquet"
        )


def _write_npz(output: Path, key: str, blocks: Sequence[FeatureBlock]) -> None:
    """Keys `KEY + "s"` and the columns' names. It streams, since local tokens may be larger than memory."""
    names = np.array([name for block in blocks for name in block.names])
    with (
        replace_when_complete(output) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        _write_member(archive, f"{key}s", [names])
        for name in blocks[0].columns:
            _write_member(archive, name, [block.columns[name] for block in blocks])


def _write_member(archive: zipfile.ZipFile, name: str, arrays: Sequence[np.ndarray]) -> None:
    first = arrays[0]
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (sum(map(len, arrays)), *first.shape[1:]),
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_2_0(member, header)
        for array in arrays:
            member.write(np.ascontiguousarray(array).tobytes())


def _write_parquet(output: Path, key: str, blocks: Sequence[FeatureBlock]) -> None:
    """Columns KEY and the arrays' names, arrays as lists of fixed size; one row group per block."""
    first = blocks[0].columns
    fields = [pa.field(key, pa.string())]
    for name, array in first.items():
        shape = ",".join(map(str, array.shape[1:]))
        values = pa.list_(pa.from_numpy_dtype(array.dtype), int(np.prod(array.shape[1:])))
        fields.append(pa.field(name, values, metadata={"shape": shape}))
    schema = pa.schema(fields)
    with replace_when_complete(output) as partial, pq.ParquetWriter(partial, schema) as writer:
        for block in blocks:
            columns = [
                pa.FixedSizeListArray.from_arrays(np.ravel(array), type=schema.field(name).type)
                for name, array in block.columns.items()
            ]
            writer.write_table(pa.table([pa.array(block.names), *columns], schema=schema))


Writer = Callable[[Path, str, Sequence[FeatureBlock]], None]
_WRITERS: dict[str, Writer] = {".npz": _write_npz, ".parquet": _write_parquet}
