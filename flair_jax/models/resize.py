"""Trained position tables at other image sizes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def resize_position_embedding(table: Float[Array, "P W"], grid: tuple[int, int]) -> Float[Array, "Q W"]:
    """Interpolates a position table to another patch grid, as the PyTorch release does: bicubic, antialiased.

    The class token's row is kept as it is.

    Args:
      table: [1 + G*G, W], the class token's row first, then a square grid, row-major.
      grid: rows and columns of patches wanted.

    Returns:
      [1 + rows*columns, W]; the table itself if it has that grid already.
    """
    side = math.isqrt(table.shape[0] - 1)
    if grid == (side, side):
        return table
    patches = table[1:].reshape(side, side, -1)
    resized = jax.image.resize(patches, (*grid, table.shape[1]), method="bicubic", antialias=True)
    return jnp.concatenate([table[:1], resized.reshape(grid[0] * grid[1], -1)])
