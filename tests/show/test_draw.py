import io
import sys

import numpy as np
import pytest
from PIL import Image
from shown import laid_over

from flair_jax.errors import FlairError
from flair_jax.show.draw import contact_sheet, ground, layer, overlay, relative

GREY = np.full((64, 64, 3), 128, np.uint8)


def test_maps_are_relative_to_their_own_maximum() -> None:
    maps = np.array([[[0.1, 0.2], [-0.3, 0.4]], [[-1.0, -2.0], [0.0, -3.0]]], np.float32)
    np.testing.assert_allclose(relative(maps), [[[0.25, 0.5], [0, 1]], [[0, 0], [0, 0]]], rtol=1e-6)


def test_an_overlay_is_yellow_where_the_map_is_high_and_pale_elsewhere() -> None:
    shown = np.zeros((8, 8))
    shown[1, 6] = 1e-3  # of any scale
    drawn = overlay(GREY, shown)
    assert drawn.shape == (448, 448, 3)
    assert drawn.dtype == np.uint8
    red, green, blue = drawn[56 + 28, 6 * 56 + 28].astype(int)
    assert min(red, green) > blue + 80
    assert np.ptp(drawn[400, 50].astype(int)) == 0, "grey stays grey"
    assert (overlay(GREY, 1e6 * shown) == drawn).all()


def test_an_overlay_keeps_the_shape_of_the_picture() -> None:
    assert overlay(np.zeros((32, 48, 3), np.uint8), np.ones((2, 3))).shape == (448, 672, 3)
    assert overlay(np.zeros((500, 460, 3), np.uint8), np.ones((2, 3))).shape == (500, 460, 3)


def test_a_sheet_shows_every_map_and_its_title() -> None:
    """With a dollar sign, which is no formula, and a sentence too long to show."""
    titles = ["a sign: $5 or $x^", "word " * 200, *("abc")]
    figure = contact_sheet(GREY, titles, [np.eye(4)] * 5, "what it is")
    figure.canvas.draw()
    shown = [axes.get_title() for axes in figure.axes if axes.images]
    assert [shown[0], shown[1], *shown[3:]] == ["the picture", titles[0], "a", "b", "c"]
    assert shown[2].endswith(" ...")
    assert shown[2].count("\n") == 3


def test_without_matplotlib_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: overlay(GREY, np.ones((2, 2))), lambda: contact_sheet(GREY, ["a"], [np.ones((2, 2))], "")):
        with pytest.raises(FlairError, match='needs matplotlib: .*pip install.* "matplotlib>=3.9"'):
            draw()


def test_a_browser_lays_the_map_over_the_picture_as_the_overlay_does() -> None:
    """Measured 1.0 of 255 on average, for the browser smooths a smaller map."""
    rng = np.random.default_rng(0)
    pixels, shown = rng.integers(0, 256, (64, 96, 3), np.uint8), rng.random((4, 6)) - 0.3
    below = ground(pixels)
    above = np.asarray(Image.open(io.BytesIO(layer(shown))).convert("RGBA"))
    assert below.shape == overlay(pixels, shown).shape
    assert above.shape == (16, 24, 4)
    assert above[..., 3].max() == 178, "0.7 of 255"
    assert above[..., 3].min() == 0
    assert np.abs(laid_over(below, above) - overlay(pixels, shown)).mean() < 2
    assert len(layer(shown)) < 2000
    assert (overlay(pixels, -shown * 0) == below).all(), "a map without a positive value"
