"""Pictures of segmentations: original, truth and prediction side by side, with a legend. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from flair_jax.data.sets.segmentation_data import IGNORED
from flair_jax.files import replace_when_complete

_SIDE = 384  # pixels of a panel's longer side
_LINE = 22  # pixels of a legend's line


def write_comparison(
    path: Path,
    picture: Image.Image,
    truth: UInt8[np.ndarray, "H W"],
    predicted: UInt8[np.ndarray, "H W"],
    classes: Sequence[str],
) -> None:
    """Writes a PNG of a picture, its true and its predicted classes in colours, and the names of those that occur.

    Pixels that are not judged are white in the truth. The colours are those of PASCAL VOC's colour map.
    """
    scale = _SIDE / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    panels = [picture.resize(size, Image.Resampling.BICUBIC)]
    grey = panels[0].convert("L").convert("RGB")  # so that the legend's colours can be recognised
    for labels in (truth, predicted):
        colours = Image.fromarray(_colours(classes)[labels]).resize(size, Image.Resampling.NEAREST)
        panels.append(Image.blend(grey, colours, 0.6))
    shown = [number for number in np.unique(np.concatenate([truth.ravel(), predicted.ravel()])) if number != IGNORED]
    legend = _legend([(classes[number], _colours(classes)[number]) for number in shown], 3 * size[0] + 8)
    sheet = Image.new("RGB", (3 * size[0] + 8, size[1] + legend.height), "white")
    for column, panel in enumerate(panels):
        sheet.paste(panel, (column * (size[0] + 4), 0))
    sheet.paste(legend, (0, size[1]))
    with replace_when_complete(path) as partial:
        sheet.save(partial, "png")


def _colours(classes: Sequence[str]) -> UInt8[np.ndarray, "256 3"]:
    """PASCAL VOC's colour map: the bits of a class number, lowest first, become the bits of R, G and B, highest first.

    Black is the background; without one the first class takes the second colour.
    """
    numbers = np.arange(256) + (classes[0] != "background")
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    colours[IGNORED] = 255
    return colours


def _legend(entries: Sequence[tuple[str, np.ndarray]], width: int) -> Image.Image:
    """Swatches with names, in as many lines as they take."""
    font = ImageFont.load_default(14)
    places, x, y = [], 4, 0
    for name, _ in entries:
        length = int(font.getlength(name)) + 34
        if x > 4 and x + length > width:
            x, y = 4, y + _LINE
        places.append((x, y))
        x += length
    legend = Image.new("RGB", (width, y + _LINE), "white")
    draw = ImageDraw.Draw(legend)
    for (name, colour), (left, top) in zip(entries, places, strict=True):
        fill = (int(colour[0]), int(colour[1]), int(colour[2]))
        draw.rectangle((left, top + 5, left + 14, top + 17), fill=fill, outline="gray")
        draw.text((left + 19, top + 2), name, fill="black", font=font)
    return legend
