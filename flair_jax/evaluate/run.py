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
from flair_jax.data.retrieval_sets import RetrievalData
from flair_jax.evaluate.blocks import BlockStore
from flair_jax.evaluate.embedding import check_broken, compute_in_blocks, embed_texts
from flair_jax.evaluate.ranking import Block, rank
from flair_jax.evaluate.retrieval import Retriever, top_k
from flair_jax.hosts import ALONE, Hosts
from flair_jax.models.flair import Flair

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
      images: pictures scored.
      texts: captions scored.
      skipped: messages about pictures that could not be read.
      seconds: wall time.
    """

    metrics: dict[str, float]
    images: int
    texts: int
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
    part = hosts.part(len(data.texts))
    texts = data.texts[part.start : part.stop]
    text_here = hosts.together(
        lambda: store.get_or_compute(
            f"texts-{left_out}-{part.start:08d}", lambda: _embed_texts(model, retriever, texts, settings, hosts)
        )
    )
    text = np.concatenate(hosts.gather_arrays(text_here))
    scores = hosts.together(
        lambda: _score(
            retriever, blocks, text, settings, store, lambda start: f"scores-{left_out}-{first + start:08d}", hosts
        )
    )
    metrics = rank(scores, first, data.image_of_text, hosts)
    store.remove()
    return Evaluation(metrics, len(data.images), len(data.texts), list(broken.values()), time.monotonic() - start)


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
    model: Flair, retriever: Retriever, texts: Sequence[str], settings: Settings, hosts: Hosts
) -> np.ndarray:
    """Features [N, D]."""
    with tqdm(total=len(texts), desc="texts", unit="text", disable=hosts.index > 0) as bar:
        return embed_texts(model, retriever, texts, _batch_size(settings, hosts), bar)


def _score(
    retriever: Retriever,
    blocks: Sequence[Block],
    text: np.ndarray,
    settings: Settings,
    store: BlockStore,
    name: Callable[[int], str],
    hosts: Hosts,
) -> list[Block]:
    """Scores [b, N] of each block of this host's images; -inf for pairs that the mode does not score.

    `name` gives what to call the scores of a block that begins at this of the host's images.
    """
    pad_to = max((block.images for block in blocks), default=0)
    prepared = retriever.prepare_texts(text)

    def score(tokens: np.ndarray) -> np.ndarray:
        if settings.mode == "text-conditioned":
            return retriever.score_all(tokens[:, 1:], prepared, pad_to=pad_to)
        scores = retriever.score_global(tokens[:, 0], text, pad_to=pad_to)
        if settings.mode == "global":
            return scores
        candidates = top_k(scores, settings.top_k)
        reranked = retriever.score_top_k(candidates, tokens[:, 1:], prepared, pad_to=pad_to)
        scores = np.full_like(scores, -np.inf)
        np.put_along_axis(scores, candidates, reranked, axis=1)
        return scores

    per_image = min(settings.top_k, len(text)) if settings.mode == "top-k" else len(text)
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
