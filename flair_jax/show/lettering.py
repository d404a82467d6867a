"""Sentences written below pictures, whole and beside the pixels. Needs matplotlib, for its font; imports no JAX."""

from __future__ import annotations

import contextlib
import functools
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from flair_jax.errors import printable

_SIZE, _LINE, _MARGIN = 16, 21, 10  # pixels: of letters, from line to line, around the text
_INK, _QUIET, _PAPER = (27, 27, 31), (92, 95, 102), (255, 255, 255)
_FEW = 3  # letters without a glyph that are written as their codes; with more, the sentence is not drawn

# Marks that choose how the letter before looks, which no font need draw.
_INVISIBLE = frozenset("\u200c\u200d\ufe0e\ufe0f")

# Scripts whose letters join or stack, which takes more than one glyph a letter: from Devanagari to Sinhala, Burmese,
# Khmer. Those that run from right to left are known by Unicode's own property.
_JOINED = ((0x0900, 0x0DFF), (0x1000, 0x109F), (0x1780, 0x17FF))


def write_below(pixels: np.ndarray, sentence: str, note: str = "") -> np.ndarray:
    """A picture with a strip below it that has a sentence, wrapped and whole.

    What no font here has is not drawn as boxes: a few such letters are written as codes ("[U+732B]"), and in the place
    of a sentence that has more of them stands a remark.

    Args:
      pixels: uint8 [H, W, 3].
      sentence: to write; control characters are escaped.
      note: what to write under it, less dark; nothing if "".

    Returns:
      uint8 [H + h, W, 3]; the first H rows are `pixels`.
    """
    text, font_file = drawable(sentence)
    font = ImageFont.truetype(font_file, _SIZE)
    room = max(pixels.shape[1] - 2 * _MARGIN, 1)
    lines = [(line, _INK, font) for line in wrap(text, room, font.getlength)]
    small = ImageFont.truetype(_plain_font(), _SIZE - 3)
    lines += [(line, _QUIET, small) for line in wrap(note, room, small.getlength)] if note else []
    strip = Image.new("RGB", (pixels.shape[1], len(lines) * _LINE + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(strip)
    for number, (line, ink, of_line) in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _LINE), line, ink, of_line)
    return np.concatenate([pixels, np.asarray(strip)])


def drawable(sentence: str) -> tuple[str, str]:
    """What can be drawn for a sentence, and the file of a font that has all its letters."""
    text = printable("".join(letter for letter in sentence if letter not in _INVISIBLE))
    if _is_joined(text) and not (features.check("raqm") and features.check("fribidi")):
        return (
            "(not drawn: its script needs Pillow with raqm and FriBiDi; the PNG's Description field has it)",
            _plain_font(),
        )
    if font := _font_with(text):
        return text, font
    missing = dict.fromkeys(letter for letter in text if ord(letter) not in _letters_of(_plain_font()))
    if len(missing) > _FEW:
        return "(not drawn: no font here has its letters; the PNG's Description field has it)", _plain_font()
    for letter in missing:
        text = text.replace(letter, f"[U+{ord(letter):04X}]")
    return text, _plain_font()


def plain(sentence: str) -> str:
    """What matplotlib draws as it stands, which neither joins letters nor takes another font for some; else ""."""
    text, font = drawable(sentence)
    return text if font == _plain_font() and not _is_joined(text) else ""


def wrap(text: str, room: float, length: Callable[[str], float]) -> list[str]:
    """The lines of a text, at least one; a word that is longer than a line is broken where the line ends.

    Args:
      text: without line breaks.
      room: of a line.
      length: of a text, in the same unit.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if length(longer) <= room:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        while length(word) > room and len(word) > 1:
            kept = _fitting(word, room, length)
            lines[-1:] = [word[:kept], ""]
            word = word[kept:]
        lines[-1] = word
    return lines


def _fitting(word: str, room: float, length: Callable[[str], float]) -> int:
    """How many first letters of a word fit, of which there is one at least."""
    low, high = 1, len(word) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(word[:middle]) <= room else (low, middle - 1)
    return low


def _is_joined(text: str) -> bool:
    """Whether letters must be put together, or run from right to left."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL", "AN")
        or any(first <= ord(letter) <= last for first, last in _JOINED)
        for letter in text
    )


@functools.cache
def _plain_font() -> str:
    """DejaVu Sans, which comes with matplotlib and has the letters of Latin, Greek, Cyrillic and some more scripts."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _letters_of(font: str) -> frozenset[int]:
    """The code points that a font has glyphs for; none if it cannot be used."""
    from matplotlib.ft2font import FT2Font

    with contextlib.suppress(Exception):  # a damaged font of the system, in whatever way
        ImageFont.truetype(font, _SIZE)  # refuses those of pictures, such as emoji, which have sizes of their own
        return frozenset(FT2Font(font).get_charmap())
    return frozenset()


def _font_with(text: str) -> str | None:
    """Matplotlib's font, or else one of the system, that has all letters; None if none has."""
    needed = {ord(letter) for letter in text}
    if needed <= _letters_of(_plain_font()):
        return _plain_font()
    from matplotlib.font_manager import fontManager

    usual = [each for each in fontManager.ttflist if each.style == "normal" and each.weight == 400]
    # That of last resort, which matplotlib brings along, has a box for every letter.
    files = sorted({str(each.fname) for each in usual if "lastresort" not in each.name.replace(" ", "").lower()})
    return next((file for file in files if needed <= _letters_of(file)), None)
