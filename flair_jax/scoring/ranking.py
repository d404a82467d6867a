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


def rank(
    scores: Sequence[ScoreBlock], first: int, image_of_text: np.ndarray, processes: Processes
) -> tuple[dict[str, float], Ties]:
    """`retrieval_metrics` and ties of the scores of all processes' images, which are never in one place.

    Each block is read twice: for the texts' scores with their own images, and, once all processes know all of these,
    for the images that score as well or better. The processes exchange [T] scores, [3, T] counts and the images' ranks.

    Args:
      scores: float32 [b, T] of each block of this process's images.
      first: number of the first of them.
      image_of_text: integers [T].
      processes: that share the images; every process must call this.

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
    return measure_retrieval(counts, np.concatenate(processes.gather_arrays(image_ranks)))
