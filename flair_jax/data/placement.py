"""Where a picture lies in the square that a model sees, by the model's own resize mode. Imports no JAX."""

from __future__ import annotations

import dataclasses

from flair_jax.models.config import VisionConfig


@dataclasses.dataclass(frozen=True)
class Placement:
    """A resized picture in the square of S pixels a side: a point (x, y) of it, from 0 to 1, is at
    (left + x * width, top + y * height).

    Attributes:
      width: of the resized picture, in pixels of the square.
      height: likewise.
      left: of its upper left corner, in the square; negative where something is cut off.
      top: likewise.
    """

    width: int
    height: int
    left: int
    top: int


def place(width: int, height: int, vision: VisionConfig) -> Placement:
    """Where a picture of `width` x `height` pixels comes to lie, as open_clip's evaluation transforms place it.

    They are `Resize`, `ResizeKeepRatio` and `CenterCropOrPad` of open_clip's src/open_clip/transform.py; the first is
    torchvision's.
    """
    size = vision.image_size
    if vision.resize_mode == "squash":
        return Placement(size, size, 0, 0)
    if vision.resize_mode == "longest":
        ratio = max(width, height) / size
        width, height = max(1, round(width / ratio)), max(1, round(height / ratio))  # a strip keeps a pixel
        return Placement(width, height, (size - width) // 2, (size - height) // 2)
    long = int(size * max(width, height) / min(width, height))
    width, height = (size, long) if width <= height else (long, size)
    # Half-way offsets go to the even neighbour, as Python's round does.
    return Placement(width, height, -round((width - size) / 2), -round((height - size) / 2))
