"""Statistics of a training set: counts, caption lengths, duplicates, and all that is damaged. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from flair_jax.data.image import open_training_picture
from flair_jax.data.sets.pictures import PictureSource
from flair_jax.data.sources import Source
from flair_jax.data.tars import TarSource
from flair_jax.data.tokenizer import tokenize
from flair_jax.data.workers import parallel
from flair_jax.errors import DatasetError, ImageError, printable

# Upper ends of the bins of the histograms. Released models read 77 tokens, stretched ones 248.
SENTENCE_BINS = (1, 2, 4, 8, 16, 32, 64)
TOKEN_BINS = (8, 16, 24, 32, 48, 64, 77, 128, 248)
_CHUNK = 256
_CONTEXT = 256


@dataclasses.dataclass(frozen=True)
class Survey:
    """Figures of a set.

    Attributes:
      samples: number of usable samples, as far as was checked.
      sentences: number of samples by their number of sentences, in `SENTENCE_BINS` and above.
      tokens: number of sentences by their number of tokens, start and end included, in `TOKEN_BINS` and above.
      same_url: samples whose URL an earlier sample has.
      same_picture: samples whose picture an earlier sample has, byte for byte.
      too_deep: samples whose picture has more than 8 bits a channel, of which little may remain; counted if decoded.
      beside: number of members beside the samples that are not read.
      empty_captions: of pictures that have others, in sets of pictures with an annotation file.
      passed_over: counts of harmless omissions, such as folders, by reason.
      left_out: number of unusable samples by reason.
      damage: each of these three, by name.
    """

    samples: int
    sentences: list[int]
    tokens: list[int]
    same_url: int
    same_picture: int
    too_deep: int
    beside: int
    empty_captions: int
    passed_over: dict[str, int]
    left_out: dict[str, int]
    damage: list[str]


@dataclasses.dataclass(frozen=True)
class _Part:
    sentences: np.ndarray
    tokens: np.ndarray
    urls: np.ndarray
    pictures: np.ndarray
    damage: list[tuple[str, str]]
    too_deep: list[str]


def survey(source: Source, *, decode: bool, processes: int = 0, progress: bool = True) -> Survey:
    """Reads all of a set.

    Args:
      source: the set.
      decode: whether to decode every picture too, which finds all damage and takes longer.
      processes: how many read at once; 0: one for each core.
      progress: show a progress bar.
    """
    chunks = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    look = functools.partial(_look, source, decode)
    parts = list(
        parallel(look, chunks, processes=processes, description="read", unit="sample", size=len, progress=progress)
    )
    before = source.damage if isinstance(source, TarSource) else []
    found = [each for part in parts for each in part.damage]
    lost = [harm for harm in before if not harm.harmless]
    harmless = [harm for harm in before if harm.harmless]
    too_deep = [name for part in parts for name in part.too_deep]
    return Survey(
        samples=len(source) - len(found),
        sentences=_histogram([part.sentences for part in parts], SENTENCE_BINS),
        tokens=_histogram([part.tokens for part in parts], TOKEN_BINS),
        same_url=_repeated([part.urls for part in parts]),
        same_picture=_repeated([part.pictures for part in parts]),
        too_deep=len(too_deep),
        beside=source.beside if isinstance(source, TarSource) else 0,
        empty_captions=source.empty_captions() if isinstance(source, PictureSource) else 0,
        passed_over=_counts(harm.reason for harm in harmless),
        left_out=_counts([harm.reason for harm in lost] + [reason for _, reason in found]),
        damage=[*map(str, lost), *(name for name, _ in found), *map(str, harmless), *too_deep],
    )


def _counts(reasons: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(reasons).most_common())


def _look(source: Source, decode: bool, chunk: Sequence[int]) -> _Part:
    sentences, tokens, urls, pictures, damage = [], [], [], [], []
    too_deep: list[str] = []
    for index in chunk:
        remarks: list[str] = []
        try:
            record = source[index]
            if not record.sentences:
                raise DatasetError(f"{source.where(index)}: no caption")
            if decode:
                open_training_picture(record.image, remarks)
        except ImageError as error:
            damage.append((printable(f"{source.where(index)}: {error}"), error.kind))
            continue
        except DatasetError as error:
            damage.append((printable(str(error)), "the record has no captions, or cannot be read"))
            continue
        too_deep.extend(printable(f"{source.where(index)}: {remark}") for remark in remarks)
        sentences.append(len(record.sentences))
        tokens.extend((tokenize(record.sentences, _CONTEXT) != 0).sum(axis=1))
        if record.url:
            urls.append(_hash(record.url.encode("utf-8", "surrogatepass")))
        pictures.append(_hash(record.image))
    return _Part(
        np.array(sentences, np.int32),
        np.array(tokens, np.int32),
        np.array(urls, np.uint64),
        np.array(pictures, np.uint64),
        damage,
        too_deep,
    )


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _histogram(parts: Sequence[np.ndarray], bins: Sequence[int]) -> list[int]:
    values = np.concatenate([*parts, np.array([], np.int32)])
    return np.bincount(np.searchsorted(bins, values, side="left"), minlength=len(bins) + 1).tolist()


def _repeated(parts: Sequence[np.ndarray]) -> int:
    values = np.concatenate([*parts, np.array([], np.uint64)])
    return len(values) - len(np.unique(values))


def rows(values: Sequence[int], bins: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Names of a histogram's bins, with their counts."""
    low = 1
    for high, count in zip([*bins, None], values, strict=True):
        name = f"{low} and more" if high is None else f"{low}" if low == high else f"{low} to {high}"
        yield name, count
        low = (high or 0) + 1
