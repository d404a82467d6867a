"""Ranks from blocks of scores that lie on several hosts, by counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flair_jax.evaluate.metrics import count_at_least, metrics_from_ranks, rank_texts_of_images
from flair_jax.hosts import Hosts


class Block(NamedTuple):
    """Images that are embedded and scored at once: how many, and what reads their tokens [b, 1 + L, D] or scores.

    What is read is not kept: the tokens and scores of a large set are larger than memory.
    """

    images: int
    read: Callable[[], np.ndarray]


def rank(scores: Sequence[Block], first: int, image_of_text: np.ndarray, hosts: Hosts) -> dict[str, float]:
    """What `retrieval_metrics` gives of the scores of all hosts' images, which are never in one place.

    Each block is looked at twice: for the texts' scores with their own pictures, and, once all hosts know all of these,
    for the pictures that score at least as well. Exchanged are [T] scores, [T] counts and the pictures' ranks.

    Args:
      scores: float32 [b, T] of each block of this host's images.
      first: number of the first of them.
      image_of_text: integers [T].
      hosts: all must call it.

    Raises:
      FlairError: if a score is NaN, on whatever host.
    """

    def rank_texts() -> tuple[np.ndarray, np.ndarray]:
        own, ranks, start = np.full(len(image_of_text), -np.inf, np.float32), [np.zeros(0, np.int64)], first
        for block in scores:
            own_of_block, ranks_of_block = rank_texts_of_images(block.read(), start, image_of_text)
            own, start = np.maximum(own, own_of_block), start + block.images
            ranks.append(ranks_of_block)
        return own, np.concatenate(ranks)

    own_here, image_ranks = hosts.together(rank_texts)
    own = np.max(hosts.gather_arrays(own_here[None]), axis=(0, 1))
    none = np.zeros(len(image_of_text), np.int64)
    counts = hosts.together(lambda: sum((count_at_least(block.read(), own) for block in scores), none))
    text_ranks = np.sum(hosts.gather_arrays(counts[None]), axis=(0, 1)) - 1
    return metrics_from_ranks(text_ranks, np.concatenate(hosts.gather_arrays(image_ranks)))
