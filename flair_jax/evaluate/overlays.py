"""Pictures of segmentations: original, truth and prediction side by side, with a legend. NumPy and Pillow only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from flair_jax.data.sets.segmentation_colours import Colour
from flair_jax.data.sets.segmentation_data import IGNORED
from flair_jax.evaluate.legend import Areas, Entry, legend, measure, percent
from flair_jax.files import replace_when_complete

PANELS = ("picture", "truth", "prediction")
_SIDE = 384  # pixels of a panel's longer side
_NARROWEST = 240  # pixels from one panel to the next, at least
_GAP = 4
_READABLE = 34  # letters' height as a share of the sheet's width: 11 pixels on a phone of 390
_LONGEST = 180  # bytes of a name; file systems take 255, of which a file being written needs some
_KEY = "flair-jax"  # of what the file says about itself
_HATCH = ((236, 236, 236), (150, 150, 150))  # stripes where pixels are not judged
_HEADING = "% of the picture"
_INK, _QUIET = (27, 27, 31), (92, 95, 102)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What a PNG of `write_comparison` says about itself.

    Attributes:
      size: width and height in pixels, with the legend.
      panel: width and height of each of the three pictures at its top.
      step: pixels from the left of one to the left of the next.
      areas: of the classes.
    """

    size: tuple[int, int]
    panel: tuple[int, int]
    step: int
    areas: Areas


def file_names(names: Sequence[str]) -> list[str]:
    """A file in one folder for each picture, no two alike, whatever folders the pictures' names begin with."""
    flat = [name.replace("/", "_") for name in names]
    seen: dict[str, int] = {}
    for each in flat:
        seen[each] = seen.get(each, 0) + 1
    files = []
    for name, each in zip(names, flat, strict=True):
        encoded = each.encode("utf-8", "surrogateescape")
        if seen[each] > 1 or len(encoded) > _LONGEST:
            kept = encoded[:_LONGEST].decode("utf-8", "ignore")
            each = f"{kept}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
        files.append(f"{each}.png")
    return files


def write_comparison(
    path: Path,
    picture: Image.Image,
    truth: UInt8[np.ndarray, "H W"],
    predicted: UInt8[np.ndarray, "H W"],
    classes: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    """Writes a PNG of a picture, its true and its predicted classes in their colours, above a legend.

    The legend has the share of the picture that each class takes in both. Pixels that are not judged are striped.
    """
    scale = _SIDE / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    step = max(size[0], _NARROWEST) + _GAP
    width = 3 * step - _GAP
    areas = measure(truth, predicted)
    below = _draw_legend(legend(areas, classes, colours), width, step)
    sheet = Image.new("RGB", (width, size[1] + below.height), "white")
    painted = [_paint(labels, colours, size) for labels in (truth, predicted)]
    for column, panel in enumerate([picture.resize(size, Image.Resampling.BICUBIC), *painted]):
        sheet.paste(panel, (column * step, 0))
    sheet.paste(below, (0, size[1]))
    about = PngImagePlugin.PngInfo()
    about.add_text(_KEY, json.dumps([*size, step, areas.to_json()]))
    with replace_when_complete(path) as partial:
        sheet.save(partial, "png", pnginfo=about)


def read_sheet(file: BinaryIO) -> Sheet | None:
    """Reads what a PNG of `write_comparison` says about itself, without its pixels; None if it is something else."""
    try:
        with Image.open(file, formats=["png"]) as opened:
            size, text = opened.size, opened.info.get(_KEY, "")
        width, height, step, areas = json.loads(text)
        sheet = Sheet(size, (int(width), int(height)), int(step), Areas.from_json(areas))
    except (OSError, ValueError, TypeError, RecursionError, Image.DecompressionBombError):
        return None
    fits = 0 < sheet.panel[0] <= sheet.step and 0 < sheet.panel[1] <= size[1]
    return sheet if fits and 2 * sheet.step + sheet.panel[0] <= size[0] else None


def _paint(labels: np.ndarray, colours: Sequence[Colour], size: tuple[int, int]) -> Image.Image:
    """Labels in their classes' own colours, so that the legend's are found again; striped where they are ignored."""
    enlarged = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    down, across = np.indices(enlarged.shape)
    stripes = np.array(_HATCH, np.uint8)[(down + across) // 6 % 2]
    return Image.fromarray(np.where((enlarged == IGNORED)[..., None], stripes, table[enlarged]))


def _draw_legend(entries: Sequence[Entry], width: int, step: int) -> Image.Image:
    """The panels' names, and below them swatches with names and shares."""
    font = ImageFont.load_default(width / _READABLE)
    letter = font.getlength("0")
    line, number = round(2.6 * letter), font.getlength(f"{PANELS[2]}   ")
    indent, names = 2.5 * letter, [f"{_HEADING}  ", *(f"{each.name}  " for each in entries)]
    right = min(indent + max(map(font.getlength, names)), width - 2 * number)  # end of the names
    drawn = Image.new("RGB", (width, line * (len(entries) + 2) + line // 2), "white")
    draw = ImageDraw.Draw(drawn)

    def write(row: float, name: str, numbers: Sequence[str], ink: Colour, left: float = 0) -> None:
        draw.text((left, row * line), _fit(name, font, right - left), fill=ink, font=font)
        for at, text in enumerate(numbers, 1):
            draw.text((right + at * number, row * line), text, fill=ink, font=font, anchor="ra")

    for column, title in enumerate(PANELS):
        draw.text((column * step, line // 8), title, fill=_QUIET, font=font)
    write(1.5, _HEADING, PANELS[1:], _QUIET)
    for row, entry in enumerate(entries):
        top = line * (row + 2.5)
        box = (0, round(top + 0.1 * line), round(1.8 * letter), round(top + 0.62 * line))
        draw.rectangle(box, fill=entry.colour or _HATCH[0], outline=_QUIET)
        if entry.colour is None:
            draw.line((box[0], box[3], box[2], box[1]), fill=_HATCH[1], width=3)
        write(row + 2.5, entry.name, [percent(entry.truth), percent(entry.predicted)], _INK, indent)
    return drawn


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """A text, or as much of it as there is room for."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
