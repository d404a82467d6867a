"""How well maps over an image's patches match an object, given by its mask. NumPy only."""

from __future__ import annotations

import numpy as np
from PIL import Image

# A patch belongs to an object that covers at least this share of it.
_COVERED = 0.25


def patch_coverage(mask: np.ndarray, grid: int) -> np.ndarray:
    """Share of each patch that a mask covers: bool [S, S] -> float [G, G]; S is a multiple of G."""
    side = mask.shape[0] // grid
    return mask.reshape(grid, side, grid, side).mean(axis=(1, 3))


def points_at(attention: np.ndarray, mask: np.ndarray) -> bool:
    """The pointing game: whether the mask [S, S] covers at least a quarter of the highest patch of a map [G, G]."""
    return bool(patch_coverage(mask, len(attention)).flat[attention.argmax()] >= _COVERED)


def pointing_chance(grid: int, mask: np.ndarray) -> float:
    """The chance that a patch drawn at random wins the pointing game, whose object covers the mask [S, S]."""
    return float((patch_coverage(mask, grid) >= _COVERED).mean())


def intersection_over_union(attention: np.ndarray, mask: np.ndarray) -> float:
    """IoU of a mask [S, S] with a map [G, G], resized to the mask, scaled to [0, 1] and thresholded at 0.5."""
    enlarged = np.asarray(
        Image.fromarray(attention.astype(np.float32)).resize(mask.shape[::-1], Image.Resampling.BILINEAR)
    )
    low, high = enlarged.min(), enlarged.max()
    chosen = enlarged >= (low + high) / 2
    return float((chosen & mask).sum() / (chosen | mask).sum())


def attention_by_object(attention: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """Attention that falls on each object.

    Args:
      attention: [G, G].
      numbers: uint8 [S, S], number of the object at each pixel from 1.
      count: how many objects there are.

    Returns:
      float [count].
    """
    return np.array([(attention * patch_coverage(numbers == n, len(attention))).sum() for n in range(1, count + 1)])
