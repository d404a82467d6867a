"""Makes an index and keeps it up to date: only new or changed pictures are read and embedded."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flair_jax.buckets import is_remote
from flair_jax.data.image import preprocess
from flair_jax.errors import ImageError, SearchIndexError
from flair_jax.files import expand, locked
from flair_jax.models.flair import Flair, Params
from flair_jax.progress import ProgressBar
from flair_jax.scoring.embedding import errors_returned, read_ahead
from flair_jax.scoring.scorer import Retriever
from flair_jax.search.candidates import build_faiss
from flair_jax.search.fingerprint import fingerprint
from flair_jax.search.manifest import LOCAL_DTYPES, MANIFEST, Manifest, require_name
from flair_jax.search.pictures import Found, Picture
from flair_jax.search.shards import ShardWriter
from flair_jax.search.store import SearchIndex

# Pictures per shard: what a kill can cost. It matters to the layout only in that equal runs give equal shards.
SHARD_ROWS = 512


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """How to index.

    Attributes:
      batch_size: pictures embedded at once over all devices.
      local_dtype: "float16" or "bfloat16"; if None, that of the index, or float16 for a new one.
      with_local: whether to store local tokens; search needs them.
    """

    batch_size: int = 64
    local_dtype: str | None = None
    with_local: bool = True


@dataclasses.dataclass(frozen=True)
class IndexUpdate:
    """What `update` changed, and what it left out.

    Attributes:
      added: pictures embedded.
      kept: pictures that it held before.
      dropped: rows of pictures that are gone or changed.
      broken: messages about pictures that cannot be read, and about links and folders that were not followed.
      remarks: messages about pictures that were read, but of which little may be visible.
      others: number of files that were passed over, as `Found.others`.
      repeated: how often a picture was named again, as `Found.repeated`.
    """

    added: int
    kept: int
    dropped: int
    broken: list[str]
    remarks: list[str]
    others: collections.Counter[str]
    repeated: int


def update(
    index: Path,
    found: Found,
    model: Flair,
    params: Params,
    *,
    root: str,
    checkpoint: str,
    settings: IndexSettings,
) -> IndexUpdate:
    """Brings an index in line with `pictures`, or makes it, with a progress bar on stderr.

    Rows of pictures that are gone or changed are dropped, and those that are new or changed are embedded, in shards
    that appear whole; a stopped run resumes after its last shard and gives the same index. Pictures that cannot be read
    are left out, and tried again in the next run.

    Args:
      index: its folder.
      found: the pictures that the index is to hold, each name once, and what was passed over, which is reported; rows
        of pictures that could not be accessed are kept.
      model: embeds them.
      params: its parameters.
      root: folder that names are relative to; "" if they are paths as they are.
      checkpoint: the model's folder, to be remembered; may be "".
      settings: how.

    Raises:
      SearchIndexError: if the folder holds another index or something else, or is in use by another run.
    """
    with _locked(index):
        manifest = _manifest(index, fingerprint(model, params), model, root, checkpoint, settings)
        writer = ShardWriter(index, manifest, SHARD_ROWS)
        wanted = {picture.name: _row(picture) for picture in found.pictures}
        dropped = writer.keep(lambda row: wanted.get(row[0]) == row or _is_within(row[0], found.unseen))
        present = writer.names()
        todo = [picture for picture in found.pictures if picture.name not in present]
        remarks: list[str] = []
        with ProgressBar(
            total=len(present) + len(todo), done=len(present), description="pictures", unit="picture"
        ) as bar:
            broken = _embed(writer, todo, model, params, settings, bar, remarks) if todo else []
        writer.merge()
        writer.finish([*found.unusable, *broken])
    listed = [*found.unusable, *broken]
    added = len(todo) - len(broken)
    return IndexUpdate(added, len(present), dropped, listed, sorted(remarks), found.others, found.repeated)


def add_faiss(index: Path) -> None:
    """Adds FAISS's file to an index, if it has none, so that FAISS finds the candidates of a search.

    Raises:
      SearchIndexError: if FAISS is not installed, or there is no index, or another run is at work on it.
    """
    with _locked(index):
        manifest = Manifest.read(index)
        if not manifest.faiss and manifest.shards:
            build_faiss(SearchIndex(index, manifest))
            dataclasses.replace(manifest, faiss=True).write(index)


def _is_within(name: str, unseen: Collection[str]) -> bool:
    """Whether a picture, or a folder that it is in, is among these."""
    return bool(unseen) and any(place in unseen for place in itertools.accumulate(name.split(os.sep), os.path.join))


def _row(picture: Picture) -> tuple[str, int, int]:
    return picture.name, picture.size, picture.mtime_ns


def _embed(
    writer: ShardWriter,
    todo: Sequence[Picture],
    model: Flair,
    params: Params,
    settings: IndexSettings,
    bar: ProgressBar,
    remarks: list[str],
) -> list[str]:
    """Adds pictures to the index and remarks about them to `remarks`; returns messages about those that are broken.

    Batches hold readable pictures only and start at shard boundaries, so that a resumed run computes the same batches,
    and bit for bit the same features, as an uninterrupted one.
    """
    retriever = Retriever(model, params)
    broken: list[str] = []
    batch: list[tuple[Picture, np.ndarray]] = []

    def compute() -> None:
        pixels = np.stack([pixels for _, pixels in batch])
        tokens = retriever.encode_images(pixels, with_local=settings.with_local, pad_to=settings.batch_size)
        writer.add([_row(picture) for picture, _ in batch], tokens)
        bar.update(len(batch))
        batch.clear()

    read = errors_returned(partial(preprocess, size=model.config.vision, remarks=remarks))
    for picture, pixels in zip(todo, read_ahead(read, [picture.path for picture in todo]), strict=True):
        if isinstance(pixels, ImageError):
            broken.append(str(pixels))
            bar.update()
            continue
        batch.append((picture, pixels))
        if len(batch) == min(settings.batch_size, writer.free):
            compute()
    if batch:
        compute()
    writer.flush()
    return broken


def _manifest(
    index: Path, identity: str, model: Flair, root: str, checkpoint: str, settings: IndexSettings
) -> Manifest:
    """The state of an index to be updated, or that of a new one, which is written."""
    config = model.config
    if (index / MANIFEST).exists():
        manifest = Manifest.read(index)
        if manifest.fingerprint != identity:
            raise SearchIndexError(
                f"{index}: was made by another checkpoint, {manifest.checkpoint}; choose another --output, or remove it"
            )
        if manifest.root not in ("", root) and expand(manifest.root).is_dir():
            raise SearchIndexError(
                f"{index}: is the index of another folder, {manifest.root}; choose another --output, or remove it"
            )
        if settings.local_dtype not in (None, manifest.local_dtype):
            raise SearchIndexError(
                f"{index}: stores {manifest.local_dtype}; leave --local-dtype out, or choose another --output"
            )
        if manifest.dtype not in ("", config.dtype):
            raise SearchIndexError(
                f"{index}: its features were computed in {manifest.dtype}, not {config.dtype}; go on with "
                f"--dtype {manifest.dtype}, or choose another --output"
            )
        known = dataclasses.replace(manifest, root=root, checkpoint=checkpoint)
        if known != manifest:
            known.write(index)
        return known
    manifest = Manifest(
        fingerprint=identity,
        checkpoint=checkpoint,
        root=root,
        embed_dim=config.embed_dim,
        local_tokens=config.vision.grid**2 if settings.with_local else 0,
        local_dtype=settings.local_dtype or LOCAL_DTYPES[0],
        dtype=config.dtype,
    )
    manifest.write(index)
    return manifest


@contextlib.contextmanager
def _locked(index: Path) -> Iterator[None]:
    """Makes the folder if need be, and keeps other runs out of it; the lock of a killed run is freed by the system."""
    require_name(index)
    if is_remote(index):
        raise SearchIndexError(f"{index}: an index is made on a disk; copy it to the bucket when it is complete")
    if index.exists() and not index.is_dir():
        raise SearchIndexError(f"{index}: is a file; name a folder for the index")
    made = (index / MANIFEST).exists()
    if not made and index.is_dir() and not all(name.startswith(".") for name in os.listdir(index)):
        raise SearchIndexError(f"{index}: exists and is not a search index; choose another folder or remove it")
    with locked(index, SearchIndexError(f"{index}: another run is at work on this index; wait for it to end")):
        yield
