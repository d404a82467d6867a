"""What is behind a recall: how it falls with the captions' length, and the queries that go most wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flair_jax.data.sets.retrieval_data import RetrievalData
from flair_jax.data.tokenizer import find_tokenizer
from flair_jax.models.config import TextConfig

# Tokens from which a class of lengths begins, the same for all models: 75 are what a context of 77 has room for, 246
# what one of 248 has.
LENGTHS = (0, 16, 32, 76, 151, 247)
_WORST = 10


def recall_by_length(texts: Sequence[str], ranks: np.ndarray, text: TextConfig) -> list[dict[str, Any]]:
    """Text-to-image R@1 of captions of like length.

    Args:
      texts: N captions.
      ranks: int64 [N], each one's rank of its picture, from 0.
      text: for the tokenizer, which counts the tokens of the whole captions, without start and end.

    Returns:
      For each class of `LENGTHS` that has captions: `tokens`, the least and most, the latter None for the last class;
      `texts`, how many there are; `text_to_image_R@1`.
    """
    tokens = find_tokenizer(text.tokenizer).count_tokens(texts)
    classes = np.searchsorted(LENGTHS, tokens, side="right") - 1
    lasts = [start - 1 for start in LENGTHS[1:]] + [None]
    return [
        {
            "tokens": [LENGTHS[number], lasts[number]],
            "texts": int(np.count_nonzero(classes == number)),
            "text_to_image_R@1": float((ranks[classes == number] < 1).mean()),
        }
        for number in np.unique(classes).tolist()
    ]


def find_worst(
    data: RetrievalData, ranks: np.ndarray, best_images: Callable[[np.ndarray], np.ndarray]
) -> list[dict[str, Any]]:
    """The ten captions whose pictures rank lowest, the lowest first; equal ranks in the order of the captions.

    Args:
      data: pictures and captions.
      ranks: int64 [T], each caption's rank of its picture, from 0.
      best_images: int64 [N], numbers of captions -> int64 [N], the picture that scores best with each.

    Returns:
      Of each caption that does not find its picture: `text`, `rank` from 1, `image`, its own picture, `first`, the
      picture found instead.
    """
    order = np.argsort(-ranks, kind="stable")[:_WORST]
    chosen = order[ranks[order] > 0]
    return [
        {
            "text": data.texts[number],
            "rank": int(ranks[number]) + 1,
            "image": str(data.images[data.image_of_text[number]]),
            "first": str(data.images[first]),
        }
        for number, first in zip(chosen.tolist(), best_images(chosen).tolist(), strict=True)
    ]
