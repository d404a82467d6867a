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
    patches = resize_grid(table[1:], grid)
    return table if patches.shape == table[1:].shape else jnp.concatenate([table[:1], patches])


def resize_grid(table: Float[Array, "P W"], grid: tuple[int, int]) -> Float[Array, "Q W"]:
    """`resize_position_embedding` of a table [G*G, W] without a class token's row."""
    side = math.isqrt(table.shape[0])
    if grid == (side, side):
        return table
    resized = jax.image.resize(table.reshape(side, side, -1), (*grid, table.shape[1]), method="bicubic", antialias=True)
    return resized.reshape(grid[0] * grid[1], -1)
