"""Shared by all evaluations: reads pictures ahead, computes on them in blocks that are kept, and embeds texts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import grain
import numpy as np

from flair_jax.data.tokenizer import find_tokenizer, tokenize_for
from flair_jax.errors import DatasetError, ImageError
from flair_jax.models.config import TextConfig
from flair_jax.models.flair import Flair
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.ranking import ScoreBlock
from flair_jax.scoring.scorer import Retriever

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


def compute_in_blocks(
    items: Sequence[_Item],
    read: Callable[[_Item], _Read],
    compute: Callable[[list[_Read]], np.ndarray],
    store: BlockStore,
    *,
    size: int,
    skip_broken: bool,
    first: int = 0,
    progress: bool = True,
) -> tuple[list[ScoreBlock], dict[int, str]]:
    """Reads pictures with threads and computes on blocks of them, with a progress bar on stderr.

    Args:
      items: names of the pictures, or whatever `read` takes.
      read: reads one; raises ImageError for a broken picture.
      compute: (results of `read` for at most `size` items, in order) -> an array [items, ...].
      store: finished blocks go there; those of an earlier, stopped run are taken from there.
      size: of a block.
      skip_broken: whether to continue without broken items; otherwise `check_broken` ends the run.
      first: number of the first item, since this process's items are a slice of all.
      progress: whether to show the bar.

    Returns:
      The blocks in order, without rows for broken items, and messages about these by their numbers.
    """
    chunks = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]
    names = {chunk: f"images-{first + chunk.start:08d}" for chunk in chunks}

    def stored(chunk: range) -> ScoreBlock:
        return ScoreBlock(len(chunk), partial(store.get, names[chunk]))

    blocks = {chunk: stored(chunk) for chunk in chunks if names[chunk] in store}
    todo, broken = [chunk for chunk in chunks if chunk not in blocks], dict[int, str]()
    done = sum(map(len, blocks))
    with ProgressBar(total=len(items), done=done, description="images", unit="image", shown=progress) as bar:
        for chunk, good, broken_here in _read_chunks(items, read, todo):
            broken |= {first + number: message for number, message in broken_here.items()}
            # A run that will fail keeps reading, to name all that is broken, but computes no more.
            if good and (skip_broken or not broken):
                result = compute(good)
                if broken_here:  # not stored: a later run must look at these pictures again, and report them
                    blocks[chunk] = ScoreBlock(len(good), partial(np.asarray, result))
                else:
                    store.put(names[chunk], result)
                    blocks[chunk] = stored(chunk)
            bar.update(len(chunk))
    return [blocks[chunk] for chunk in chunks if chunk in blocks], broken


def _read_chunks(
    items: Sequence[_Item], read: Callable[[_Item], _Read], chunks: Sequence[range]
) -> Iterator[tuple[range, list[_Read], dict[int, str]]]:
    """Each chunk with the results of `read` for its items, and messages about the broken ones by their numbers."""
    pictures = read_ahead(errors_returned(read), [items[number] for chunk in chunks for number in chunk])
    for chunk in chunks:
        good, broken = [], {}
        for number in chunk:
            picture = next(pictures)
            if isinstance(picture, ImageError):
                broken[number] = str(picture)
            else:
                good.append(picture)
        yield chunk, good, broken


def read_ahead(read: Callable[[_Item], _Read], items: Sequence[_Item], *, per_thread: int = 8) -> Iterator[_Read]:
    """`read` of each item in order, done ahead by threads: at most `per_thread` results per core wait to be used."""
    if not items:
        return iter(())
    threads = os.cpu_count() or 1
    results: Any = grain.MapDataset.source(items).map(read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=per_thread * threads)
    return iter(results.to_iter_dataset(options))


def errors_returned(read: Callable[[_Item], _Read]) -> Callable[[_Item], _Read | ImageError]:
    """`read`, but returning the error about a broken picture instead of raising it."""

    def attempt(item: _Item) -> _Read | ImageError:
        try:
            return read(item)
        except ImageError as error:
            return error

    return attempt


class BrokenPicturesError(DatasetError):
    """Pictures that cannot be read.

    Attributes:
      broken: messages by the pictures' numbers.
      images: how many pictures there are.
    """

    def __init__(self, broken: dict[int, str], images: int) -> None:
        """An error that lists them, and advises what `flair-jax evaluate` can do."""
        advice = (
            "mend them, or pass --skip-broken to leave them out" if len(broken) < images else "is --data-dir right?"
        )
        super().__init__(list_broken(broken, images, advice))
        self.broken, self.images = broken, images


def check_broken(broken: dict[int, str], images: int, *, skip: bool) -> None:
    """Raises BrokenPicturesError, listing the broken pictures, unless they are to be skipped; always if all are broken.

    Args:
      broken: messages by the pictures' numbers.
      images: how many pictures there are.
      skip: continue with the others.
    """
    if broken and not (skip and len(broken) < images):
        raise BrokenPicturesError(broken, images)


def list_broken(broken: dict[int, str], images: int, advice: str, most: int = 20) -> str:
    """A message that lists broken pictures by their messages, `most` of them."""
    listed = "\n  ".join(list(broken.values())[:most])
    more = f"\n  and {len(broken) - most} more" if len(broken) > most else ""
    return f"{len(broken)} of {images} pictures cannot be read; {advice}:\n  {listed}{more}"


@dataclasses.dataclass(frozen=True)
class CutOff:
    """How much of a set's texts exceeds the model's context; start and end do not count as tokens of a text.

    Attributes:
      context_length: tokens that the model reads, with start and end.
      texts: how many texts are longer.
      texts_share: the same as a share of all texts.
      tokens_share: the share of all tokens that the model does not read.
    """

    context_length: int
    texts: int
    texts_share: float
    tokens_share: float


def cut_off(texts: Sequence[str], text: TextConfig) -> CutOff:
    """What a model's context length cuts off texts, of which there must be one."""
    tokenizer = find_tokenizer(text.tokenizer)
    tokens = tokenizer.count_tokens(texts)
    lost = np.maximum(tokens - tokenizer.room(text.context_length), 0)
    longer = int(np.count_nonzero(lost))
    return CutOff(text.context_length, longer, longer / len(texts), int(lost.sum()) / max(int(tokens.sum()), 1))


def unread(sentences: Sequence[str], text: TextConfig) -> list[str]:
    """A remark on each sentence of which the model does not read the end, for whoever wrote it."""
    tokenizer = find_tokenizer(text.tokenizer)
    room = tokenizer.room(text.context_length)
    return [
        f"sentence {number} has {count:,} tokens, of which the model reads the first {room:,}: its end changes nothing"
        for number, count in enumerate(tokenizer.count_tokens(sentences).tolist(), start=1)
        if count > room
    ]


def embed_texts(
    model: Flair, retriever: Retriever, texts: Sequence[str], batch_size: int, bar: ProgressBar
) -> np.ndarray:
    """Features [N, D] of texts, as `embed_tokens` makes them."""
    return embed_tokens(model, retriever, tokenize_for(model.config.text, texts), batch_size, bar)


def embed_tokens(
    model: Flair, retriever: Retriever, tokens: np.ndarray, batch_size: int, bar: ProgressBar
) -> np.ndarray:
    """Features [N, D] of tokens [N, T]. Texts of like length share a batch, cut to its longest; `bar` counts texts."""
    order = np.argsort(model.text_lengths(tokens), kind="stable")
    features = np.empty((len(tokens), model.config.embed_dim), np.float32)
    for start in range(0, len(tokens), batch_size):
        chosen = order[start : start + batch_size]
        features[chosen] = retriever.encode_texts(tokens[chosen], pad_to=min(batch_size, len(tokens)))
        bar.update(len(chosen))
    return features
