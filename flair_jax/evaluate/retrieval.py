"""One retrieval evaluation from pictures and captions to metrics: read, embed, score, rank."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flair_jax.data.image import preprocess
from flair_jax.data.sets.retrieval import RetrievalData
from flair_jax.data.tokenizer import tokenize
from flair_jax.models.flair import Flair
from flair_jax.parallel.processes import ALONE, Hosts
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, check_broken, compute_in_blocks, cut_off, embed_tokens
from flair_jax.scoring.metrics import Ties
from flair_jax.scoring.ranking import Block, rank
from flair_jax.scoring.scorer import Retriever, top_k

MODES = ("text-conditioned", "top-k", "global")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
      mode: "text-conditioned" (every pair), "top-k" (only the texts that score best globally for each image), "global".
      top_k: texts per image that "top-k" scores with pooling; all others rank below them.
      batch_size: images, and likewise texts, embedded at once over all devices.
      skip_broken: leave out pictures that cannot be read, and their captions, instead of failing.
    """

    mode: str = "text-conditioned"
    top_k: int = 128
    batch_size: int = 64
    skip_broken: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
      metrics: see `flair_jax.retrieval_metrics`.
      ties: what equal scores decide of them.
      images: pictures scored.
      texts: captions scored.
      cut_off: what the model does not read of the captions.
      skipped: messages about pictures that could not be read.
      seconds: wall time.
    """

    metrics: dict[str, float]
    ties: Ties
    images: int
    texts: int
    cut_off: CutOff
    skipped: list[str]
    seconds: float


def evaluate(
    model: Flair,
    retriever: Retriever,
    data: RetrievalData,
    settings: Settings,
    store: BlockStore,
    hosts: Hosts = ALONE,
) -> Evaluation:
    """Evaluates retrieval on one set, with progress bars on stderr.

    With several hosts, all must call it. Each reads and embeds its part of the pictures and texts, and scores its
    pictures with all texts; exchanged are text features, each text's score with its own picture, and counts of better
    ones. The matrix of scores is never in one place.

    Args:
      model: gives picture size and context length.
      retriever: the model on its devices.
      data: pictures and captions.
      settings: how.
      store: finished blocks go there; those of an earlier, stopped run are taken from there. Emptied at the end.
      hosts: that share the work.

    Returns:
      The outcome, the same on all hosts but for the seconds.

    Raises:
      DatasetError: listing the pictures that could not be read, on whatever host.
    """
    start = time.monotonic()
    if hosts.count > 1:
        hosts.agree(data.digest(), "the pictures or captions")
    first = hosts.part(len(data.images)).start
    blocks, own_broken = hosts.together(lambda: _embed_images(model, retriever, data.images, settings, store, hosts))
    broken = {number: message for each in hosts.gather(list(own_broken.items())) for number, message in each}
    check_broken(broken, len(data.images), skip=settings.skip_broken)
    data = data.keep_images(np.array([number not in broken for number in range(len(data.images))]))
    first -= sum(number < first for number in broken)
    # Which texts and rows there are depends on what was left out, and a picture may be mended before the next run.
    left_out = hashlib.sha256(str(sorted(broken)).encode()).hexdigest()[:8]
    text, distinct = _embed_texts(model, retriever, data.texts, left_out, settings, store, hosts)
    scores = hosts.together(
        lambda: _score(
            *(retriever, blocks, text, distinct, settings, store),
            lambda start: f"scores-{left_out}-{first + start:08d}",
            hosts,
        )
    )
    metrics, ties = rank(scores, first, data.image_of_text, hosts)
    store.remove()
    return Evaluation(
        metrics,
        ties,
        len(data.images),
        len(data.texts),
        cut_off(data.texts, model.config.text.context_length),
        list(broken.values()),
        time.monotonic() - start,
    )


def _batch_size(settings: Settings, hosts: Hosts) -> int:
    """Images, and texts, that one host embeds at once."""
    return -(-settings.batch_size // hosts.count)


def _embed_images(
    model: Flair, retriever: Retriever, paths: Sequence[Path], settings: Settings, store: BlockStore, hosts: Hosts
) -> tuple[list[Block], dict[int, str]]:
    """Blocks of this host's images without the broken pictures, and the latter's messages."""
    part, size = hosts.part(len(paths)), _batch_size(settings, hosts)
    pad_to = min(size, len(part))
    return compute_in_blocks(
        [str(paths[number]) for number in part],
        partial(preprocess, size=model.config.vision.image_size),
        lambda pixels: retriever.encode_images(np.stack(pixels), with_local=settings.mode != "global", pad_to=pad_to),
        store,
        size=size,
        skip_broken=settings.skip_broken,
        first=part.start,
        progress=hosts.index == 0,
    )


def _embed_texts(
    model: Flair,
    retriever: Retriever,
    texts: Sequence[str],
    left_out: str,
    settings: Settings,
    store: BlockStore,
    hosts: Hosts,
) -> tuple[np.ndarray, np.ndarray]:
    """Features [U, D] of the distinct texts, and int64 [N], which of these each of all texts is.

    Texts of the same tokens get one feature and so one score: they tie whatever their batch and host.
    """
    tokens, distinct = np.unique(tokenize(texts, model.config.text.context_length), axis=0, return_inverse=True)
    part = hosts.part(len(tokens))

    def embed() -> np.ndarray:
        with tqdm(total=len(part), desc="texts", unit="text", disable=hosts.index > 0) as bar:
            return embed_tokens(model, retriever, tokens[part.start : part.stop], _batch_size(settings, hosts), bar)

    here = hosts.together(lambda: store.get_or_compute(f"distinct-texts-{left_out}-{part.start:08d}", embed))
    return np.concatenate(hosts.gather_arrays(here)), distinct.reshape(-1)


def _score(
    retriever: Retriever,
    blocks: Sequence[Block],
    text: np.ndarray,
    distinct: np.ndarray,
    settings: Settings,
    store: BlockStore,
    name: Callable[[int], str],
    hosts: Hosts,
) -> list[Block]:
    """Scores [b, N] of each block of this host's images; -inf for pairs that the mode does not score.

    `text` has the features of the distinct texts, and `distinct` [N] says which of these each text is. `name` gives
    what to call the scores of a block that begins at this of the host's images.
    """
    pad_to = max((block.images for block in blocks), default=0)
    prepared = retriever.prepare_texts(text)

    def score(tokens: np.ndarray) -> np.ndarray:
        if settings.mode == "text-conditioned":
            return retriever.score_all(tokens[:, 1:], prepared, pad_to=pad_to).take(distinct, axis=1)
        scores = retriever.score_global(tokens[:, 0], text, pad_to=pad_to).take(distinct, axis=1)
        if settings.mode == "global":
            return scores
        candidates = top_k(scores, settings.top_k)
        chosen = distinct[candidates]
        pooled = retriever.score_top_k(chosen, tokens[:, 1:], prepared, pad_to=pad_to)
        reranked = np.empty((len(scores), len(text)), np.float32)
        np.put_along_axis(reranked, chosen, pooled, axis=1)
        scores = np.full_like(scores, -np.inf)
        np.put_along_axis(scores, candidates, np.take_along_axis(reranked, chosen, axis=1), axis=1)
        return scores

    per_image = min(settings.top_k, len(distinct)) if settings.mode == "top-k" else len(distinct)
    images = sum(block.images for block in blocks)
    scored: list[Block] = []
    with tqdm(total=images * per_image, desc="scores", unit="pair", unit_scale=True, disable=hosts.index > 0) as bar:
        for block in blocks:
            called = name(sum(block.images for block in scored))
            if called not in store:
                store.put(called, score(block.read()))
            scored.append(Block(block.images, partial(store.get, called)))
            bar.update(block.images * per_image)
    return scored
