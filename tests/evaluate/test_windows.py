import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flair_jax.errors import ImageError
from flair_jax.evaluate.windows import average_windows, classify_pixels, cut_windows, plan_windows


@given(
    width=st.integers(100, 900),
    height=st.integers(100, 900),
    short_side=st.integers(1, 100),
    side=st.integers(1, 6),
    patch=st.sampled_from([8, 16]),
)
@settings(deadline=None, max_examples=60)
def test_windows_cover_every_patch(width, height, short_side, side, patch) -> None:
    windows = plan_windows(width, height, short_side=short_side, side=side, patch=patch)
    covered = np.zeros((windows.rows, windows.columns), int)
    for top, left in windows.corners:
        assert 0 <= top <= windows.rows - side
        assert 0 <= left <= windows.columns - side
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1
    assert len(set(windows.corners)) == len(windows.corners)


def test_windows_overlap_by_half() -> None:
    windows = plan_windows(500, 375, short_side=336, side=14, patch=16)
    assert (windows.rows, windows.columns) == (21, 28)
    assert windows.corners == tuple((top, left) for top in (0, 7) for left in (0, 7, 14))
    assert plan_windows(448, 224, short_side=224, side=14, patch=16).corners == ((0, 0), (0, 7), (0, 14))
    assert len(plan_windows(224, 224, short_side=224, side=14, patch=16).corners) == 1


def test_a_strip_is_refused() -> None:
    with pytest.raises(ImageError, match="4x90000 pixels would be cut into .* over the limit of 2,048"):
        plan_windows(4, 90_000, short_side=224, side=14, patch=16)


def test_a_picture_of_the_right_size_is_cut_but_not_changed() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    windows = plan_windows(48, 32, short_side=32, side=2, patch=16)
    cut = cut_windows(Image.fromarray(pixels), windows, 16)
    assert np.array_equal(cut[0], pixels[:, :32])
    assert np.array_equal(cut[1], pixels[:, 16:])


def test_scores_are_averaged_where_windows_overlap() -> None:
    """Each patch's score is its own place, which averaging must keep, plus the number of the window."""
    windows = plan_windows(7, 5, short_side=5, side=4, patch=1)
    places = np.arange(35, dtype=np.float32).reshape(5, 7)
    scores = np.stack(
        [places[top : top + 4, left : left + 4].reshape(16, 1) + n for n, (top, left) in enumerate(windows.corners)]
    )
    average = average_windows(scores, windows)
    assert average.shape == (1, 5, 7)
    extra = average[0] - places
    assert windows.corners == ((0, 0), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3))
    assert extra[0, 0] == 0
    assert extra[0, 6] == 2
    assert extra[4, 0] == 3
    assert extra[2, 3] == pytest.approx(np.mean(range(6)))


@pytest.mark.parametrize("size", [(24, 40), (17, 31)])
def test_pixels_are_classified_after_bilinear_enlarging(size: tuple[int, int]) -> None:
    height, width = size
    scores = np.random.default_rng(0).normal(size=(5, 4, 7)).astype(np.float32)
    enlarged = np.stack([jax.image.resize(each, size, "linear", antialias=False) for each in scores])
    # Rounding may decide between classes whose scores are equal; none are here.
    best = np.sort(enlarged, axis=0)
    assert (best[-1] - best[-2]).min() > 1e-5
    assert np.array_equal(classify_pixels(scores, width, height), enlarged.argmax(axis=0))
    threshold = 0.8
    assert abs(enlarged[1:].max(axis=0) - threshold).min() > 1e-5
    expected = np.where(enlarged[1:].max(axis=0) > threshold, 1 + enlarged[1:].argmax(axis=0), 0)
    assert np.array_equal(classify_pixels(scores, width, height, threshold), expected)
