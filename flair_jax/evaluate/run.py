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
from flair_jax.evaluate.embedding import compute_in_blocks, embed_texts
from flair_jax.evaluate.metrics import retrieval_metrics
from flair_jax.evaluate.retrieval import Retriever, top_k
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
    model: Flair, retriever: Retriever, data: RetrievalData, settings: Settings, store: BlockStore
) -> Evaluation:
    """Evaluates retrieval on one set, with progress bars on stderr.

    Args:
      model: gives picture size and context length.
      retriever: the model on its devices.
      data: pictures and captions.
      settings: how.
      store: finished blocks go there; those of an earlier, stopped run are taken from there. Emptied at the end.

    Raises:
      DatasetError: listing the pictures that could not be read.
    """
    start = time.monotonic()
    blocks, broken = _embed_images(model, retriever, data.images, settings, store)
    data = data.keep_images(np.array([number not in broken for number in range(len(data.images))]))
    # Which texts and rows there are depends on what was left out, and a picture may be mended before the next run.
    left_out = hashlib.sha256(str(sorted(broken)).encode()).hexdigest()[:8]
    text = store.get_or_compute(
        f"texts-{left_out}", lambda: _embed_texts(model, retriever, data.texts, settings.batch_size)
    )
    scores = _score(
        retriever,
        blocks,
        text,
        settings,
        lambda number, compute: store.get_or_compute(f"scores-{left_out}-{number:08d}", compute),
    )
    metrics = retrieval_metrics(scores, data.image_of_text)
    store.remove()
    return Evaluation(metrics, len(data.images), len(data.texts), list(broken.values()), time.monotonic() - start)


def _embed_images(
    model: Flair, retriever: Retriever, paths: Sequence[Path], settings: Settings, store: BlockStore
) -> tuple[list[np.ndarray], dict[int, str]]:
    """Blocks of image tokens [<= batch_size, 1 + L, D] without the broken pictures, and the latter's messages."""
    pad_to = min(settings.batch_size, len(paths))
    return compute_in_blocks(
        [str(path) for path in paths],
        partial(preprocess, size=model.config.vision.image_size),
        lambda pixels: retriever.encode_images(np.stack(pixels), with_local=settings.mode != "global", pad_to=pad_to),
        store,
        size=settings.batch_size,
        skip_broken=settings.skip_broken,
    )


def _embed_texts(model: Flair, retriever: Retriever, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Features [N, D]."""
    with tqdm(total=len(texts), desc="texts", unit="text") as bar:
        return embed_texts(model, retriever, texts, batch_size, bar)


def _score(
    retriever: Retriever,
    blocks: list[np.ndarray],
    text: np.ndarray,
    settings: Settings,
    stored: Callable[[int, Callable[[], np.ndarray]], np.ndarray],
) -> np.ndarray:
    """Scores [I, N] of all images; -inf for pairs that the mode does not score.

    `stored` gives a block's scores by its number, calling the function it is given only if they are not there yet.
    """
    pad_to = max(len(tokens) for tokens in blocks)
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
    images = sum(len(tokens) for tokens in blocks)
    rows = []
    with tqdm(total=images * per_image, desc="scores", unit="pair", unit_scale=True) as bar:
        for number, tokens in enumerate(blocks):
            rows.append(stored(number, partial(score, tokens)))
            bar.update(len(tokens) * per_image)
    return np.concatenate(rows)
