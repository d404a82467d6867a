"""Hand-computed cases of where maps point and what they choose."""

import numpy as np
import pytest
from PIL import Image

from flair_jax.evaluate.localization import (
    attention_by_object,
    boxes_match,
    centres_within,
    chosen_pixels,
    intersection_over_union,
    patch_coverage,
    points_at,
    winning_patches,
)


def mask_of(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def test_coverage_is_the_share_of_each_patch() -> None:
    mask = mask_of((4, 4), slice(0, 1), slice(0, 3))
    assert patch_coverage(mask, 2).tolist() == [[0.5, 0.25], [0, 0]]
    # Of 3 columns, each patch has one and a half: pixel (0, 1) lies half in each.
    uneven = patch_coverage(mask_of((2, 3), slice(0, 1), slice(1, 2)), 2)
    np.testing.assert_allclose(uneven, [[1 / 3, 1 / 3], [0, 0]], rtol=1e-15)
    assert patch_coverage(np.ones((7, 5), bool), 3).tolist() == [[1] * 3] * 3
    assert patch_coverage(mask_of((1, 2), slice(0, 1), slice(1, 2)), 4).tolist() == [[0, 0, 1, 1]] * 4


def test_coverage_adds_up_to_the_mask() -> None:
    rng = np.random.default_rng(0)
    for shape, grid in (((31, 17), 4), (((8, 9)), 14), ((64, 64), 8)):
        mask = rng.random(shape) < 0.3
        assert patch_coverage(mask, grid).mean() == pytest.approx(mask.mean(), rel=1e-12)


def test_a_quarter_of_a_patch_wins_and_less_does_not() -> None:
    assert winning_patches(mask_of((4, 4), slice(0, 1), slice(0, 1)), 2).tolist() == [[True, False], [False, False]]
    assert not winning_patches(mask_of((6, 6), slice(0, 1), slice(0, 2)), 2).any(), "2 of 9 pixels"
    assert winning_patches(mask_of((6, 6), slice(0, 1), slice(0, 3)), 2)[0, 0], "3 of 9 pixels"


def test_by_pixel_a_patch_wins_whose_centre_is_covered() -> None:
    # Centres of patches of 3 x 3 pixels are pixels 1 and 4; of 2 x 2, pixels 1 and 3.
    assert centres_within(mask_of((6, 6), slice(1, 2), slice(4, 5)), 2).tolist() == [[False, True], [False, False]]
    assert not centres_within(mask_of((6, 6), slice(2, 4), slice(2, 4)), 2).any()
    assert centres_within(mask_of((4, 6), slice(3, 4), slice(0, 6)), 2).tolist() == [[False, False], [True, True]]
    peak = np.zeros((3, 3), np.float32)
    peak[1, 2] = 1
    enlarged = np.asarray(Image.fromarray(peak).resize((33, 27), Image.Resampling.BILINEAR))
    row, column = np.unravel_index(enlarged.argmax(), enlarged.shape)
    assert centres_within(mask_of((27, 33), slice(row, row + 1), slice(column, column + 1)), 3).argmax() == 5


def test_of_several_highest_patches_each_must_win() -> None:
    winning = np.array([[True, True], [False, False]])
    for attention, expected in (
        ([[1, 0], [0, 0]], True),
        ([[0, 0], [1, 0]], False),
        ([[1, 1], [0, 0]], True),
        ([[1, 0], [1, 0]], False),
        ([[0, 0], [0, 0]], False),
        ([[1, np.nan], [0, 0]], False),
    ):
        assert points_at(np.array(attention, float), winning) is expected
    assert points_at(np.zeros((2, 2)), np.ones((2, 2), bool))


def test_pixels_are_chosen_from_half_of_the_range() -> None:
    # Enlarged to 4 columns, values at 0.25, 0.75, 1.25, 1.75 patches: 0, 0.25, 0.75, 1 of the way from -1 to 3.
    chosen = chosen_pixels(np.array([[-1.0, 3.0], [-1.0, 3.0]]), (2, 4))
    assert chosen.tolist() == [[False, False, True, True]] * 2
    assert chosen_pixels(np.full((2, 2), 7.0), (3, 5)).all()
    assert not chosen_pixels(np.array([[np.nan, 0], [0, 1]]), (2, 2)).any()


def test_iou() -> None:
    one, other = mask_of((4, 4), slice(0, 2), slice(0, 4)), mask_of((4, 4), slice(1, 3), slice(0, 2))
    assert intersection_over_union(one, other) == 2 / 10
    assert intersection_over_union(one, one) == 1
    nothing = np.zeros((4, 4), bool)
    assert intersection_over_union(nothing, nothing) == intersection_over_union(one, nothing) == 0


def test_boxes_match_from_an_iou_of_a_half() -> None:
    def box(rows: slice, columns: slice) -> np.ndarray:
        return mask_of((6, 6), rows, columns)

    assert boxes_match(box(slice(0, 2), slice(0, 2)), box(slice(0, 2), slice(0, 4))), "4 of 8"
    assert not boxes_match(box(slice(0, 1), slice(0, 2)), box(slice(0, 1), slice(0, 5))), "2 of 5"
    assert not boxes_match(box(slice(0, 2), slice(0, 2)), box(slice(3, 5), slice(3, 5)))
    assert not boxes_match(box(slice(0, 2), slice(0, 2)), box(slice(0, 2), slice(2, 4))), "side by side"
    corners = box(slice(0, 1), slice(0, 1)) | box(slice(3, 4), slice(3, 4))
    assert boxes_match(corners, box(slice(0, 4), slice(0, 4))), "the box around all that is chosen"
    nothing = np.zeros((6, 6), bool)
    assert not boxes_match(nothing, corners)
    assert not boxes_match(corners, nothing)


def test_attention_by_object() -> None:
    numbers = np.array([[1, 1, 0, 2], [1, 1, 2, 2]], np.uint8).repeat(2, axis=0)
    found = attention_by_object(np.array([[0.5, 0.25], [0.25, 0]]), numbers, 2)
    np.testing.assert_allclose(found, [0.75, 0.125], rtol=1e-12)
