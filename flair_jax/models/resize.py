"""Trained position tables at other image sizes and for longer texts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
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


def stretch_position_embedding(table: Float[np.ndarray, "P W"], length: int, keep: int) -> Float[np.ndarray, "T W"]:
    """A text tower's position table for longer texts, as Long-CLIP makes it (Zhang et al., ECCV 2024, section 3.2).

    The first rows are trained best, for most texts are short, and are kept. The others are interpolated linearly: row
    `keep + i` lies where `keep + i * (P - keep) / (length - keep)` lay, and behind the last row the line goes on.

    Args:
      table: float32, P positions.
      length: T, greater than P. Long-CLIP's is 248 from P = 77 with `keep` = 20: four new rows for each old one.
      keep: from 0 to P - 2.

    Returns:
      float32.
    """
    old, new = len(table) - keep, length - keep
    places = np.arange(new) * old
    below = np.minimum(places // new, old - 2)
    share = (places / new - below)[:, None]
    rest = table[keep:].astype(np.float64)
    stretched = rest[below] * (1 - share) + rest[below + 1] * share
    return np.concatenate([table[:keep], stretched.astype(np.float32)])
