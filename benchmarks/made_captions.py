"""Made captions whose token counts are those that were measured."""

from __future__ import annotations

import numpy as np

from flair_jax.models.config import TextConfig

# Shares of all captions, and the most tokens that these have, start and end included.
SHARES = (0, 0.1, 0.5, 0.9, 0.99, 1)
# Captions that training draws from a raw, three short and three long ones an image: mean 41.0, 47 % padding.
TRAINING = (5, 14.5, 40, 69, 77, 77)
# COCO's captions, which evaluation embeds: mean 24.4, 68 % padding.
COCO = (7, 10.5, 24, 38, 46, 48)


def made_captions(count: int, lengths: tuple[float, ...], text: TextConfig) -> np.ndarray:
    """The same random token ids int32 [count, T] each time, in random order, whose counts follow `lengths`."""
    rng = np.random.default_rng(0)
    exact = np.interp((np.arange(count) + 0.5) / count, SHARES, lengths)
    of_each = rng.permutation(np.round(exact).astype(np.int32))[:, None]
    tokens = rng.integers(1, text.vocab_size - 1, (count, text.context_length), dtype=np.int32)
    place = np.arange(text.context_length)
    end = text.vocab_size - 1
    return np.where(place < of_each - 1, tokens, np.where(place == of_each - 1, end, 0)).astype(np.int32)
