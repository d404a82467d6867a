"""Resize modes: against numbers by hand, and against Pillow's own operations written out."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageOps

from flair_jax import VisionConfig, preprocess
from flair_jax.data.image import resized_crop
from flair_jax.data.placement import Placement, place

SHORTEST, LONGEST, SQUASH = (
    VisionConfig(image_size=32, resize_mode=mode) for mode in ("shortest", "longest", "squash")
)


@pytest.mark.parametrize(
    ("size", "vision", "placed"),
    [
        ((100, 50), SHORTEST, Placement(64, 32, -16, 0)),
        ((50, 101), SHORTEST, Placement(32, 64, 0, -16)),  # 64.64 is cut off
        ((66, 64), SHORTEST, Placement(33, 32, 0, 0)),  # half a pixel goes to the even neighbour, 0
        ((70, 64), SHORTEST, Placement(35, 32, -2, 0)),  # and 1.5 to 2
        ((100, 50), LONGEST, Placement(32, 16, 0, 8)),
        ((50, 100), LONGEST, Placement(16, 32, 8, 0)),
        ((64, 63), LONGEST, Placement(32, 32, 0, 0)),  # 31.5 is rounded to the even neighbour
        ((90, 64), LONGEST, Placement(32, 23, 0, 4)),  # 22.76; of the 9 rows that are left, 5 lie below
        ((9000, 1), LONGEST, Placement(32, 1, 0, 15)),
        ((100, 50), SQUASH, Placement(32, 32, 0, 0)),
    ],
)
def test_placements_by_hand(size: tuple[int, int], vision: VisionConfig, placed: Placement) -> None:
    assert place(*size, vision) == placed


@pytest.fixture(scope="module")
def wide() -> Image.Image:
    return Image.effect_noise((90, 60), 80).convert("RGB")


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_pixels_are_pillows(wide: Image.Image, name: str) -> None:
    method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[name]
    squashed = preprocess(wide, dataclasses.replace(SQUASH, interpolation=name))
    np.testing.assert_array_equal(squashed, wide.resize((32, 32), method))
    padded = preprocess(wide, dataclasses.replace(LONGEST, interpolation=name, fill_color=9))
    expected = ImageOps.expand(wide.resize((32, 21), method), (0, 5, 0, 6), fill=(9, 9, 9))
    np.testing.assert_array_equal(padded, expected)
    cropped = preprocess(wide, dataclasses.replace(SHORTEST, interpolation=name))
    np.testing.assert_array_equal(cropped, wide.resize((48, 32), method).crop((8, 0, 40, 32)))
    trained = resized_crop(wide, (3, 5, 40, 50), 32, name)
    np.testing.assert_array_equal(trained, wide.crop((5, 3, 55, 43)).resize((32, 32), method))


def test_the_default_is_the_release_and_the_modes_differ(wide: Image.Image) -> None:
    for size in (32, np.int64(32)):
        np.testing.assert_array_equal(preprocess(wide, size), preprocess(wide, SHORTEST))
    assert len({preprocess(wide, each).tobytes() for each in (SHORTEST, LONGEST, SQUASH)}) == 3


def test_a_strip_is_no_trouble_where_it_is_not_blown_up() -> None:
    strip = Image.new("RGB", (1, 60_000), (200, 0, 0))
    assert preprocess(strip, SQUASH).shape == (32, 32, 3)
    assert (preprocess(strip, LONGEST)[:, 15] == (200, 0, 0)).all()
