"""Self-attention over short sequences, by rows that may hold several texts."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, Int

from flair_jax.models.layout import shard_rows


def split_heads(x: Float[Array, "*batch D"], heads: int) -> Float[Array, "*batch H C"]:
    """Cuts the last axis into `heads` equal heads."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attend(
    query: Float[Array, "B L W"],
    key: Float[Array, "B L W"],
    value: Float[Array, "B L W"],
    *,
    heads: int,
    causal: bool,
    segments: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L W"]:
    """Softmax attention of every position to those of its row that it may see.

    Args:
      query: its heads, of width W / `heads`, one after the other.
      key: likewise.
      value: likewise.
      heads: how many.
      causal: whether a position attends only to itself and those before it.
      segments: a position attends only to those with its own number; None: to all.
    """
    query, key, value = (shard_rows(split_heads(each, heads), tensor=2) for each in (query, key, value))
    mask = None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None]
    mixed = shard_rows(jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal), tensor=2)
    return mixed.reshape(*mixed.shape[:2], -1)
