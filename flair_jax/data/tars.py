"""WebDataset tars as img2dataset writes them, by sample: an index of where things lie, and reading through it.

A sample is a JSON member and a picture of the same name up to the first dot. Imports no JAX.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
import numpy as np
from braceexpand import braceexpand
from tqdm import tqdm

from flair_jax.data.captions import sentences_of
from flair_jax.data.sources import Record
from flair_jax.errors import DatasetError
from flair_jax.files import replace_when_complete

PICTURES = ("jpg", "jpeg", "png", "webp")
# A sample's JSON and picture; nothing larger is a caption or a photograph.
_MOST_JSON, _MOST_PICTURE = 2**24, 2**28
# One read takes both members of a sample, and what lies between them, if that is no more.
_GAP = 2**16
_OPEN_FILES = 64
_VERSION = 1
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_SPANS = np.dtype([(name, "<i8") for name in ("json_offset", "json_size", "picture_offset", "picture_size")])


def is_tars(name: str) -> bool:
    """Whether a data set's name is a pattern of tars, rather than the name of a TFDS data set."""
    return name.endswith(".tar")


def expand_shards(pattern: str, base: str | Path = "") -> list[str]:
    """Paths or URLs of tars, in order.

    Args:
      pattern: with brace patterns ({0000..0575}, {a,b}) and wildcards; several joined by `::`.
      base: folder of relative paths.

    Raises:
      DatasetError: if a pattern is wrong, or a wildcard finds nothing.
    """
    shards: list[str] = []
    for part in pattern.split("::"):
        try:
            paths = list(braceexpand(part))
        except ValueError:
            raise DatasetError(f"{part}: unbalanced braces; ranges are written as {{0000..0575}}") from None
        for path in paths:
            if "://" not in path:
                path = str(Path(base).expanduser() / Path(path).expanduser())
            if any(letter in path for letter in "*?["):
                files, root = fsspec.core.url_to_fs(path)
                found = sorted(files.glob(root))
                if not found:
                    raise DatasetError(f"{path}: no such tars")
                shards.extend(files.unstrip_protocol(each) if "://" in path else each for each in found)
            else:
                shards.append(path)
    return shards


def require_shards(shards: Sequence[str]) -> None:
    """Makes sure that all tars are there, before long work begins.

    Raises:
      DatasetError: if one is not.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(_fingerprint, shards))


@dataclasses.dataclass(frozen=True)
class Damage:
    """What cannot be used.

    Attributes:
      shard: path or URL of the tar.
      member: name in it; "" if the tar itself is meant.
      reason: a few words, the same for all of a kind.
    """

    shard: str
    member: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}{': ' + self.member if self.member else ''}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Where the usable samples of one tar lie, and what is damaged.

    Attributes:
      spans: structured [n], in the tar's order: offset and size in bytes of each sample's JSON and picture.
      damage: what was left out.
    """

    spans: np.ndarray
    damage: list[Damage]


def read_members(shard: str, stream: Any) -> Iterator[tuple[tarfile.TarInfo | None, Damage | None]]:
    """Regular members whose bytes are all there, and damage, in the tar's order."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    last = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                last = member.name
                tar.members = []  # type: ignore[attr-defined]  # or it keeps them all
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    yield None, Damage(shard, member.name, "path leads out of the folder")
                elif member.offset_data + member.size > size:
                    yield None, Damage(shard, member.name, "cut off")
                elif member.isreg():
                    yield member, None
            stream.seek(tar.offset)
            if len(stream.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                yield None, Damage(shard, "", f"damaged tar (after {last}: no end mark, so it may be cut off)")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        where = f"after {last}" if last else "from the start"
        yield None, Damage(shard, "", f"damaged tar ({where}: {error})")


def index_shard(shard: str, *, need_captions: bool = True) -> ShardIndex:
    """Finds the usable samples of a tar: a JSON that says something, and a picture that is not empty.

    Pictures are not decoded.

    Args:
      shard: path or URL.
      need_captions: False to take samples whose JSON says nothing too.

    Raises:
      DatasetError: if the tar cannot be opened.
    """
    spans: list[tuple[int, int, int, int]] = []
    damage: list[Damage] = []
    parts: dict[str, dict[str, tarfile.TarInfo]] = collections.defaultdict(dict)
    with _open(shard) as stream:
        for member, harm in read_members(shard, stream):
            if member is None:
                damage.append(harm)  # type: ignore[arg-type]
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            kind = "json" if suffix.lower() == "json" else "picture" if suffix.lower() in PICTURES else ""
            if not kind:
                continue
            key = f"{folder}/{stem}"
            if kind in parts[key]:
                damage.append(Damage(shard, member.name, f"a second {kind} of that name"))
            else:
                parts[key][kind] = member
        for each in parts.values():
            harm = _unusable(shard, stream, each, need_captions)
            if harm:
                damage.append(harm)
            else:
                text, picture = each["json"], each["picture"]
                spans.append((text.offset_data, text.size, picture.offset_data, picture.size))
    return ShardIndex(np.array(spans, _SPANS), damage)


def read_shard(shard: str, *, need_captions: bool = True) -> Iterator[tuple[int, str, bytes, dict[str, Any]] | Damage]:
    """All usable samples of a tar in order (number, name of the picture, its bytes, JSON), after the damage.

    See `index_shard`.
    """
    index = index_shard(shard, need_captions=need_captions)
    yield from index.damage
    with _open(shard) as stream:
        for number, span in enumerate(index.spans):
            stream.seek(int(span["picture_offset"]) - tarfile.BLOCKSIZE)
            name = _member_name(stream.read(tarfile.BLOCKSIZE))
            picture = stream.read(int(span["picture_size"]))
            stream.seek(int(span["json_offset"]))
            yield number, name, picture, parse_json(stream.read(int(span["json_size"])))


def _member_name(header: bytes) -> str:
    return tarfile.TarInfo.frombuf(header, "utf-8", "replace").name


def _unusable(shard: str, stream: Any, parts: dict[str, tarfile.TarInfo], need_captions: bool) -> Damage | None:
    for kind, most in (("json", _MOST_JSON), ("picture", _MOST_PICTURE)):
        if kind not in parts:
            return Damage(shard, next(iter(parts.values())).name, f"no {kind}")
        member = parts[kind]
        if not 0 < member.size <= most:
            return Damage(shard, member.name, f"{kind} is empty" if not member.size else f"{kind} is too large")
    member = parts["json"]
    stream.seek(member.offset_data)
    try:
        document = parse_json(stream.read(member.size))
        if need_captions:
            sentences_of(document)
    except DatasetError as error:
        return Damage(shard, member.name, str(error))
    return None


def parse_json(data: bytes) -> dict[str, Any]:
    """A sample's JSON object.

    Raises:
      DatasetError: if it is none; in a few words.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise DatasetError("not JSON") from None
    if not isinstance(document, dict):
        raise DatasetError("JSON is not an object")
    return document


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
        self._starts = np.cumsum([0, *(count for _, count, _ in made)])
        if not len(self):
            raise DatasetError(f"{pattern}: no usable sample; `flair-jax data check` says why")
        self._opened: dict[str, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        shard, span = self._find(index)
        pieces = self._read(
            shard,
            [
                (int(span["json_offset"]), int(span["json_size"])),
                (int(span["picture_offset"]), int(span["picture_size"])),
            ],
        )
        try:
            document = parse_json(pieces[0])
            sentences = sentences_of(document)
        except DatasetError as error:
            raise DatasetError(f"{self.where(index)}: {error}; the tar changed after it was indexed") from None
        return Record(pieces[1], sentences, str(document.get("url") or ""))

    def where(self, index: int) -> str:
        """The tar and member of a sample, for messages."""
        shard, _ = self._find(index)
        return f"{shard}: {self.member(index)}"

    def member(self, index: int) -> str:
        """Name of a sample's picture, from the header in front of it."""
        shard, span = self._find(index)
        (header,) = self._read(shard, [(int(span["picture_offset"]) - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)])
        return _member_name(header)

    def shard_ranges(self) -> Iterator[tuple[str, int, int]]:
        """Each tar, with the number of its first sample and of the one after its last."""
        yield from zip(self.shards, map(int, self._starts[:-1]), map(int, self._starts[1:]), strict=True)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def _find(self, index: int) -> tuple[str, np.void]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.shards[number], _load_spans(self._spans[number])[index - self._starts[number]]

    def _read(self, shard: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        first, last = min(start for start, _ in spans), max(start + size for start, size in spans)
        if last - first <= sum(size for _, size in spans) + _GAP:
            whole = self._read_one(shard, first, last - first)
            return [whole[start - first : start - first + size] for start, size in spans]
        return [self._read_one(shard, start, size) for start, size in spans]

    def _read_one(self, shard: str, start: int, size: int) -> bytes:
        files, path = _filesystem(shard)
        try:
            if not _is_local(shard):
                return files.cat_file(path, start=start, end=start + size)
            if shard not in self._opened:
                while len(self._opened) >= _OPEN_FILES:
                    os.close(self._opened.pop(next(iter(self._opened))))
                self._opened[shard] = os.open(path, os.O_RDONLY)
            return os.pread(self._opened[shard], size, start)
        except OSError as error:
            raise DatasetError(f"{shard}: cannot be read ({error})") from error


def build_index(
    shards: Sequence[str], index_dir: str | Path = "", *, processes: int = 0, progress: bool = True
) -> list[tuple[Path, int, list[Damage]]]:
    """Makes the indexes that are missing or older than their tar; one that was stopped goes on where it was.

    Args:
      shards: paths or URLs.
      index_dir: see `TarSource`.
      processes: how many work at once; 0: one for each core.
      progress: show a progress bar.

    Returns:
      For each tar the file of its spans, their number, and what is damaged.

    Raises:
      DatasetError: if a tar cannot be opened.
    """
    _load_spans.cache_clear()  # what lies on the disk counts
    missing = [shard for shard in shards if _read_index(shard, index_dir) is None]
    if missing:
        for _ in parallel(
            functools.partial(_write_index, index_dir=str(index_dir)),
            missing,
            processes=processes,
            description="index",
            unit="tar",
            progress=progress,
        ):
            pass
        _load_spans.cache_clear()
    made = []
    for shard in shards:
        found = _read_index(shard, index_dir)
        if found is None:
            raise DatasetError(f"{shard}: changes while it is indexed; wait until it is complete")
        made.append(found)
    return made


def parallel(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    processes: int = 0,
    description: str,
    unit: str,
    progress: bool = True,
) -> Iterator[_Result]:
    """`function` of each item, in order, in processes of their own, with a progress bar."""
    count = min(processes or os.cpu_count() or 1, len(items))
    with tqdm(total=len(items), desc=description, unit=unit, disable=not progress) as bar:
        if count <= 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        with concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            try:
                for result in pool.map(function, items):
                    yield result
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _write_index(shard: str, index_dir: str) -> None:
    fingerprint = _fingerprint(shard)
    index = index_shard(shard)
    document = {
        "version": _VERSION,
        "shard": shard,
        "fingerprint": fingerprint,
        "samples": len(index.spans),
        "damage": [[harm.member, harm.reason] for harm in index.damage],
    }
    spans, description = _index_files(shard, index_dir)
    with replace_when_complete(spans) as partial, partial.open("wb") as stream:
        np.save(stream, index.spans)
    with replace_when_complete(description) as partial:
        partial.write_text(json.dumps(document) + "\n", encoding="utf-8")


def _read_index(shard: str, index_dir: str | Path) -> tuple[Path, int, list[Damage]] | None:
    spans, description = _index_files(shard, index_dir)
    try:
        document = json.loads(description.read_text(encoding="utf-8"))
        if document["version"] != _VERSION or document["fingerprint"] != _fingerprint(shard):
            return None
        if len(_load_spans(spans)) != document["samples"]:
            return None
        return spans, document["samples"], [Damage(shard, *harm) for harm in document["damage"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


@functools.lru_cache(maxsize=4096)
def _load_spans(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def _index_files(shard: str, index_dir: str | Path) -> tuple[Path, Path]:
    """Spans and description; tars of the same name in different folders have different ones."""
    local = Path(_filesystem(shard)[1]) if _is_local(shard) else None
    if not index_dir and local and os.access(local.parent, os.W_OK):
        stem = local.parent / f"{local.name}.index"
    else:
        folder = Path(index_dir).expanduser() if index_dir else Path("~/.cache/flair_jax/tars").expanduser()
        name = shard if local is None else str(local.absolute())
        stem = folder / f"{PurePosixPath(name).name}.{hashlib.sha256(name.encode()).hexdigest()[:16]}.index"
    return stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")


def _fingerprint(shard: str) -> str:
    """Changes when the tar does."""
    files, path = _filesystem(shard)
    try:
        if _is_local(shard):
            status = os.stat(path)
            return f"{status.st_size} {status.st_mtime_ns}"
        return str(files.ukey(path))
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be opened ({error.strerror or error})") from None


@functools.lru_cache(maxsize=4096)
def _filesystem(shard: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(shard)
    except (ValueError, ImportError) as error:
        raise DatasetError(f"{shard}: {error}") from None


def _is_local(shard: str) -> bool:
    return "://" not in shard or shard.startswith("file://")


def _open(shard: str) -> Any:
    files, path = _filesystem(shard)
    try:
        return files.open(path, "rb")
    except OSError as error:
        raise DatasetError(f"{shard}: cannot be opened ({error.strerror or error})") from None
