"""Images of any size as overlapping windows, and scores of windows as classes of pixels. NumPy and Pillow only."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flair_jax.data.image import RESAMPLING
from flair_jax.errors import ImageError
from flair_jax.models.config import VisionConfig

_MOST_WINDOWS = 2048  # 300 MB of pixels at 224 a side


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows that cover an image; all lengths are in patches.

    Attributes:
      rows: height of the image, resized.
      columns: its width.
      side: of the windows.
      corners: row and column of each window's upper left corner.
    """

    rows: int
    columns: int
    side: int
    corners: tuple[tuple[int, int], ...]


def plan_windows(width: int, height: int, *, short_side: int, side: int, patch: int) -> Windows:
    """Windows that cover an image and overlap by half, the last of a row or column by more.

    The image's sides are rounded to whole patches, so that the patches of all windows fall on one grid.

    Args:
      width: of the image, in pixels.
      height: likewise.
      short_side: of the resized image, in pixels; at least a window's side is used.
      side: of a window, in patches.
      patch: side of a patch in pixels.

    Raises:
      ImageError: if the image is so long and narrow that there would be too many.
    """
    scale = short_side / patch / min(width, height)
    rows, columns = (max(round(length * scale), side) for length in (height, width))
    tops, lefts = _starts(rows, side), _starts(columns, side)
    if len(tops) * len(lefts) > _MOST_WINDOWS:
        raise ImageError(
            f"{width}x{height} pixels would be cut into {len(tops) * len(lefts):,} windows, over the limit of "
            f"{_MOST_WINDOWS:,}; use a smaller --short-side",
            "picture is too large",
        )
    return Windows(rows, columns, side, tuple((top, left) for top in tops for left in lefts))


def _starts(length: int, side: int) -> list[int]:
    """Where windows start: half a window apart, the last one at the end."""
    last = length - side
    return [*range(0, last, max(side // 2, 1)), last]


def cut_windows(
    image: Image.Image, windows: Windows, patch: int, interpolation: str = VisionConfig.interpolation
) -> UInt8[np.ndarray, "K S S 3"]:
    """An image in RGB resized, antialiased, and cut into windows of S pixels a side."""
    size = (windows.columns * patch, windows.rows * patch)
    pixels = np.asarray(image if image.size == size else image.resize(size, RESAMPLING[interpolation]))
    side = windows.side * patch
    corners = ((top * patch, left * patch) for top, left in windows.corners)
    return np.stack([pixels[top : top + side, left : left + side] for top, left in corners])


def average_windows(scores: Float[np.ndarray, "K L C"], windows: Windows) -> Float[np.ndarray, "C R W"]:
    """Scores of the L patches of each window for C classes, averaged where windows overlap."""
    side, classes = windows.side, scores.shape[2]
    total = np.zeros((windows.rows, windows.columns, classes), np.float32)
    count = np.zeros((windows.rows, windows.columns, 1), np.float32)
    for window, (top, left) in zip(scores.reshape(-1, side, side, classes), windows.corners, strict=True):
        total[top : top + side, left : left + side] += window
        count[top : top + side, left : left + side] += 1
    return np.moveaxis(total / count, 2, 0)


def classify_pixels(
    scores: Float[np.ndarray, "C R W"], width: int, height: int, background_threshold: float | None = None
) -> UInt8[np.ndarray, "H2 W2"]:
    """The class with the highest score at each pixel, after bilinear resizing; among equals, the lowest number.

    One class is resized at a time, so that memory does not grow with their number.

    Args:
      scores: of the patches.
      width: of the result.
      height: likewise.
      background_threshold: if given, class 0 is where no other class has a higher score than this.
    """
    best = np.full((height, width), -np.inf if background_threshold is None else background_threshold, np.float32)
    classes = np.zeros((height, width), np.uint8)
    for number, patches in enumerate(scores):
        if number or background_threshold is None:
            resized = Image.fromarray(np.ascontiguousarray(patches)).resize((width, height), Image.Resampling.BILINEAR)
            values = np.asarray(resized)
            higher = values > best
            best[higher], classes[higher] = values[higher], number
    return classes
