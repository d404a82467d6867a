"""Where the thing lies that a phrase names: boxes, or outlines in COCO's forms. Imports no JAX."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from flair_jax.data.sets.records import field
from flair_jax.errors import DatasetError, FlairError, ImageError
from flair_jax.packages import how_to_install

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, from the picture's upper left corner


@dataclasses.dataclass(frozen=True)
class Region:
    """The part of a picture that a phrase names, which is all of these together.

    Attributes:
      boxes: a pixel is in a box if its centre is.
      outlines: COCO's `segmentation`s: a list of polygons [x, y, x, y, ...] in pixels, or a run-length code, a dict of
        `size` [height, width] and `counts`, which are numbers, or a text if they are compressed.
    """

    boxes: tuple[Box, ...] = ()
    outlines: tuple[Any, ...] = ()

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The pixels in it, bool [height, width], of a picture whose width and height are `size`.

        Raises:
          ImageError: if an outline is damaged, or of a picture of another size.
        """
        width, height = size
        mask = np.zeros((height, width), bool)
        for left, top, right, bottom in self.boxes:
            mask[math.ceil(max(top, 0) - 0.5) : _end(bottom), math.ceil(max(left, 0) - 0.5) : _end(right)] = True
        for outline in self.outlines:
            mask |= _pixels(outline, width, height)
        return mask


def _end(side: float) -> int:
    """Number of the first pixel whose centre is not before a position."""
    return max(math.ceil(side - 0.5), 0)


def _pixels(outline: Any, width: int, height: int) -> np.ndarray:
    """The pixels in COCO's outline: bool [height, width]."""
    if isinstance(outline, dict):
        if outline["size"] != [height, width]:
            raise _broken(f"is of a picture of {outline['size'][1]}x{outline['size'][0]} pixels, and not of this")
        counts = outline["counts"]
        runs = np.array(_decompress(counts) if isinstance(counts, str) else counts, np.int64)
        if (runs < 0).any() or runs.sum() != width * height:
            raise _broken(f"has a run-length code of other than {width * height} pixels")
        # Column by column; the first run is of pixels outside.
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    corners = np.array([corner for polygon in outline for corner in zip(polygon[::2], polygon[1::2], strict=True)])
    if (corners < -np.array([width, height])).any() or (corners > 2 * np.array([width, height])).any():
        raise _broken("has corners far from the picture")  # which COCO's code walks to, pixel by pixel
    code = coco_masks()
    return np.asarray(code.decode(code.merge(code.frPyObjects(outline, height, width))), bool)


def _broken(why: str) -> ImageError:
    return ImageError(f"the outline of a phrase {why}", "annotation is broken")


def _decompress(text: str) -> list[int]:
    """COCO's compressed run lengths: cocoapi, common/maskApi.c, rleToString.

    Five bits a character, the lowest first; a sixth says that more follow; numbers after the third are differences
    from the last but one.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 50:
            raise _broken("has a run-length code that cannot be read")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise _broken("has a run-length code that is cut off")
    return counts


def coco_masks() -> Any:
    """COCO's own code for masks, which decides about pixels on the edge of a polygon.

    Raises:
      FlairError: if it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        how = how_to_install("masks")
        raise FlairError(f"the polygons of this set need pycocotools; {how}") from None
    return mask


def read_region(annotations: list[tuple[Any, str]]) -> Region:
    """The region of COCO's annotations, by their `segmentation` if they have one, else by their `bbox`.

    Field names: cocodataset.org, "Data format"; a `bbox` is [left, top, width, height].

    Args:
      annotations: each with its place, for the errors.

    Raises:
      DatasetError: if one has neither, or it is not in COCO's form.
    """
    boxes, outlines = list[Box](), list[Any]()
    for annotation, where in annotations:
        if isinstance(annotation, dict) and annotation.get("segmentation"):
            outlines.append(_checked(annotation["segmentation"], f"{where}: `segmentation`"))
        else:
            left, top, width, height = _numbers(field(annotation, "bbox", list, where), 4, f"{where}: `bbox`")
            if width <= 0 or height <= 0:
                raise DatasetError(f"{where}: `bbox` has no area")
            boxes.append((left, top, left + width, top + height))
    return Region(tuple(boxes), tuple(outlines))


def _checked(outline: Any, where: str) -> Any:
    if isinstance(outline, dict):
        height, width = _numbers(field(outline, "size", list, where), 2, f"{where}: `size`")
        counts = field(outline, "counts", object, where)
        if isinstance(counts, str):
            if counts.isascii() and counts.isprintable():
                return outline
        elif isinstance(counts, list) and all(isinstance(each, int) and each >= 0 for each in counts):
            if sum(counts) == height * width:
                return outline
            raise DatasetError(f"{where}: `counts` add up to {sum(counts)} pixels, not {height * width}")
        raise DatasetError(f"{where}: `counts` must be a run-length code, a text or a list of whole numbers")
    if not isinstance(outline, list):
        raise DatasetError(f"{where}: must be a list of polygons or a run-length code")
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DatasetError(f"{where}: a polygon must be a list of x and y of at least three corners")
        _numbers(polygon, len(polygon), where)
    return outline


def _numbers(values: list[Any], count: int, where: str) -> list[float]:
    numbers = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    if len(values) != count or len(numbers) != count:
        raise DatasetError(f"{where} must be {count} numbers")
    return numbers
