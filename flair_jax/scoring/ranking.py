"""Ranks from blocks of scores on several processes, by counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flair_jax.parallel.processes import Processes
from flair_jax.scoring.metrics import Ranks, Ties, count_images, measure_retrieval, rank_texts_of_images


class ScoreBlock(NamedTuple):
    """Images that are embedded and scored at once: their number, and how to read their tokens [b, 1 + L, D] or scores.

    What is read is not kept, since the tokens and scores of a large set exceed memory.
    """

    images: int
    read: Callable[[], np.ndarray]


def count_ranks(
    scores: Sequence[ScoreBlock], first: int, image_of_text: np.ndarray, processes: Processes
) -> tuple[np.ndarray, np.ndarray]:
    """What `measure_retrieval` takes, of the scores of all processes' images, which are never in one place.

    Each block is read twice: for the texts' scores with their own images, and, once all processes know all of these,
    for the images that score as well or better. The processes exchange [T] scores, [3, T] counts and the images' ranks.

    Args:
      scores: float32 [b, T] of each block of this process's images.
      first: number of the first of them.
      image_of_text: integers [T].
      processes: that share the images; every process must call this.

    Returns:
      int64 [3, T], the sum of `count_images` over all images; and int64 [I, 3], `rank_texts_of_images` of all.

    Raises:
      FlairError: if a score is NaN, on any process.
    """
    starts = [first + sum(block.images for block in scores[:number]) for number in range(len(scores))]

    def rank_texts() -> tuple[np.ndarray, np.ndarray]:
        own, ranks = np.full(len(image_of_text), -np.inf, np.float32), [np.zeros((0, len(Ranks._fields)), np.int64)]
        for block, start in zip(scores, starts, strict=True):
            own_of_block, ranks_of_block = rank_texts_of_images(block.read(), start, image_of_text)
            own = np.maximum(own, own_of_block)
            ranks.append(ranks_of_block)
        return own, np.concatenate(ranks)

    def count() -> np.ndarray:
        counts = np.zeros((3, len(image_of_text)), np.int64)
        for block, start in zip(scores, starts, strict=True):
            counts += count_images(block.read(), start, image_of_text, own)
        return counts

    own_here, image_ranks = processes.together(rank_texts)
    own = np.max(processes.gather_arrays(own_here[None]), axis=(0, 1))
    counts = np.sum(processes.gather_arrays(processes.together(count)[None]), axis=(0, 1))
    return counts, np.concatenate(processes.gather_arrays(image_ranks))


def rank(
    scores: Sequence[ScoreBlock], first: int, image_of_text: np.ndarray, processes: Processes
) -> tuple[dict[str, float], Ties]:
    """`retrieval_metrics` and ties of blocks of scores [b, T], which `count_ranks` takes as they are here."""
    return measure_retrieval(*count_ranks(scores, first, image_of_text, processes))


def best_images(scores: Sequence[ScoreBlock], first: int, texts: np.ndarray, processes: Processes) -> np.ndarray:
    """The image that scores best with each of some texts, the first of equal ones: int64 [N].

    Args:
      scores: as in `count_ranks`.
      first: likewise.
      texts: int64 [N], numbers of the texts.
      processes: likewise.
    """
    best, where, start = np.full(len(texts), -np.inf), np.zeros(len(texts), np.int64), first
    for block in scores:
        here = block.read()[:, texts]
        better = here.max(axis=0) > best
        where = np.where(better, start + here.argmax(axis=0), where)
        best = np.maximum(best, here.max(axis=0))
        start += block.images
    bests = np.concatenate(processes.gather_arrays(best[None]))
    wheres = np.concatenate(processes.gather_arrays(where[None]))
    return np.take_along_axis(wheres, bests.argmax(axis=0)[None], axis=0)[0]
