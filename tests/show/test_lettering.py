"""Sentences below pictures: whole, wrapped, and never as boxes."""

import numpy as np
import pytest
from PIL import features

from flair_jax.show import lettering
from flair_jax.show.lettering import drawable, plain, wrap, write_below

PIXELS = np.full((30, 448, 3), 7, np.uint8)
CHINESE = "猫在花园里玩球"


@pytest.fixture(autouse=True)
def no_fonts_of_the_system(monkeypatch) -> None:
    from matplotlib.font_manager import fontManager

    monkeypatch.setattr(fontManager, "ttflist", [each for each in fontManager.ttflist if "mpl-data" in each.fname])


def dark_rows(pixels: np.ndarray) -> np.ndarray:
    return (pixels.min(axis=(1, 2)) < 200).nonzero()[0]


def test_the_sentence_is_below_and_not_over_the_picture() -> None:
    drawn = write_below(PIXELS, "a red dog")
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:30], PIXELS)
    below = drawn[30:]
    assert dark_rows(below).size
    assert below[:5].min() == below[-5:].min() == 255, "a margin"
    assert len(write_below(PIXELS, "a red dog", "head 1")) > len(drawn)


@pytest.mark.parametrize("width", [1, 30, 448, 3000])
def test_long_sentences_are_whole_at_any_width(width: int) -> None:
    sentence = " ".join(f"word{number}" for number in range(200)) + " " + "x" * 300
    text, font_file = drawable(sentence)
    font = lettering.ImageFont.truetype(font_file, 16)
    room = max(width - 20, 1)
    lines = wrap(text, room, font.getlength)
    assert "".join(lines).replace(" ", "") == sentence.replace(" ", "")
    assert all(font.getlength(line) <= room or len(line) == 1 for line in lines)
    drawn = write_below(np.zeros((5, width, 3), np.uint8), sentence)
    assert drawn.shape == (5 + 21 * len(lines) + 20, width, 3)


def test_wrapping() -> None:
    assert wrap("a bb ccc", 4, len) == ["a bb", "ccc"]
    assert wrap("abcdefgh i", 3, len) == ["abc", "def", "gh", "i"]
    assert wrap("ab abcdefgh", 3, len) == ["ab", "abc", "def", "gh"]
    assert wrap("", 3, len) == [""]
    assert wrap("abc", 0, len) == ["a", "b", "c"]


def test_letters_without_a_glyph_are_said_to_be_so() -> None:
    assert drawable("hello \U0001f436 dog")[0] == "hello [U+1F436] dog"
    assert drawable("猫")[0] == "[U+732B]"
    text, _ = drawable(CHINESE)
    assert text == "(not drawn: no font here has its letters; the PNG's Description field has it)"
    assert drawable("café, Ελληνικά, русский")[0] == "café, Ελληνικά, русский"
    assert drawable("a\x1b[2J\tb")[0] == "a\\x1b[2J\\tb"
    assert drawable("a ✈\ufe0f")[0] == "a ✈"
    assert dark_rows(write_below(PIXELS, CHINESE)[30:]).size


def test_scripts_that_join_letters(monkeypatch) -> None:
    arabic = "كلب أحمر"
    assert plain(arabic) == "", "matplotlib does not join"
    assert plain("a dog") == "a dog"
    monkeypatch.setattr(features, "check", lambda name: name != "raqm")
    assert drawable(arabic)[0].startswith("(not drawn: its script needs Pillow with raqm")
    monkeypatch.setattr(features, "check", lambda name: True)
    assert drawable(arabic)[0] == arabic


def test_fonts_that_cannot_be_used_are_passed_over(monkeypatch, tmp_path) -> None:
    from matplotlib.font_manager import FontEntry, fontManager

    (tmp_path / "broken.ttf").write_bytes(b"no font")
    broken = FontEntry(fname=str(tmp_path / "broken.ttf"), name="Broken", style="normal", weight=400)
    monkeypatch.setattr(fontManager, "ttflist", [broken, *fontManager.ttflist])
    assert drawable(CHINESE)[0].startswith("(not drawn: no font here")
