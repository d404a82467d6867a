"""How well maps over an image's patches match an object, given by its mask. NumPy only."""

from __future__ import annotations

import numpy as np
from PIL import Image

COVERED = 0.25  # a patch belongs to an object that covers at least this share of it
CHOSEN = 0.5  # a map chooses the pixels that reach this share of the way from its lowest to its highest value
MATCHING = 0.5  # two boxes match whose IoU is at least this


def patch_coverage(mask: np.ndarray, grid: int) -> np.ndarray:
    """Share of each patch that a mask covers: bool [H, W] -> float [G, G]; pixels may lie in several patches."""
    rows, columns = (_overlaps(side, grid) for side in mask.shape)
    return rows @ mask.astype(np.float64) @ columns.T / mask.size


def _overlaps(side: int, grid: int) -> np.ndarray:
    """How much of each pixel of a side lies in each of `grid` patches, in G-ths of a pixel: whole numbers [G, side]."""
    pixels, patches = np.arange(side) * grid, np.arange(grid)[:, None] * side
    return np.maximum(np.minimum(pixels + grid, patches + side) - np.maximum(pixels, patches), 0).astype(np.float64)


def winning_patches(mask: np.ndarray, grid: int) -> np.ndarray:
    """The patches that win the pointing game, a quarter of which the mask covers: bool [H, W] -> bool [G, G]."""
    return patch_coverage(mask, grid) >= COVERED


def centres_within(mask: np.ndarray, grid: int) -> np.ndarray:
    """The patches whose centre the mask covers: bool [H, W] -> bool [G, G].

    A map that is enlarged bilinearly is highest in the centre of its highest patch, so these are what wins where
    others judge the highest pixel.
    """
    rows, columns = ((2 * np.arange(grid) + 1) * side // (2 * grid) for side in mask.shape)
    return mask[rows[:, None], columns[None, :]]


def points_at(attention: np.ndarray, winning: np.ndarray) -> bool:
    """The pointing game: whether the highest patch of a map [G, G] is one of `winning` [G, G]; of several, each."""
    highest = attention == attention.max()
    return bool(highest.any() and winning[highest].all())  # nothing is the highest where there is NaN


def chosen_pixels(attention: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels that a map [G, G] chooses: resized to `shape`, scaled to [0, 1], thresholded at 0.5: bool [H, W]."""
    height, width = shape
    enlarged = np.asarray(
        Image.fromarray(attention.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    )
    return enlarged >= enlarged.min() * (1 - CHOSEN) + enlarged.max() * CHOSEN


def intersection_over_union(chosen: np.ndarray, mask: np.ndarray) -> float:
    """IoU of two masks [H, W]; 0 if both are empty."""
    return float((chosen & mask).sum() / max(int((chosen | mask).sum()), 1))


def boxes_match(chosen: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the smallest boxes around two masks [H, W] have an IoU of at least 0.5."""
    if not (chosen.any() and mask.any()):
        return False
    sides = [[np.flatnonzero(each.any(axis=axis))[[0, -1]] for axis in (0, 1)] for each in (chosen, mask)]
    shared, areas = 1, [1, 1]
    for (first, last), (other_first, other_last) in zip(*sides, strict=True):
        shared *= max(int(min(last, other_last) - max(first, other_first)) + 1, 0)
        areas = [areas[0] * int(last - first + 1), areas[1] * int(other_last - other_first + 1)]
    return shared >= MATCHING * (sum(areas) - shared)


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
