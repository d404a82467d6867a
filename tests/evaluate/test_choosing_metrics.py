"""Choosing by scores, against cases computed by hand."""

import numpy as np
import pytest

from flair_jax.evaluate.choosing_metrics import chance, judge


def verdict(scores: list, owners: tuple[int, ...]) -> tuple[bool, ...]:
    """Text, image and group score, and whether equal scores decided, of one way."""
    return tuple(judge(np.array([scores], np.float32), owners)[0].tolist())


@pytest.mark.parametrize(
    ("scores", "owners", "right", "tied"),
    [
        ([0.2, 0.1], (0, -1), True, False),
        ([0.1, 0.2], (0, -1), False, False),
        ([0.2, 0.2], (0, -1), False, True),
        ([0.3, 0.2, 0.1], (0, 0, -1), True, False),
        ([0.3, 0.1, 0.2], (0, 0, -1), False, False),  # one of the two true captions is not enough
        ([0.3, 0.1, 0.1], (0, 0, -1), False, True),
        ([0.9, *[0.1] * 9, 0.8], (0, *[-1] * 10), True, False),
        ([0.9, *[0.1] * 9, 0.95], (0, *[-1] * 10), False, False),
        ([float("nan"), 0.1], (0, -1), False, False),
        ([0.1, float("nan")], (0, -1), False, False),
    ],
)
def test_one_picture(scores: list[float], owners: tuple[int, ...], right: bool, tied: bool) -> None:
    text, _, group, equal = verdict([scores], owners)
    assert (text, group, equal) == (right, right, tied)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # Picture 0 with captions 0 and 1, then picture 1 with these.
        ([[0.9, 0.1], [0.2, 0.8]], (True, True, True, False)),
        ([[0.9, 0.1], [0.95, 0.99]], (True, False, False, False)),  # caption 0 fits picture 1 better
        ([[0.9, 0.95], [0.1, 0.99]], (False, True, False, False)),  # picture 0 fits caption 1 better
        ([[0.1, 0.9], [0.8, 0.2]], (False, False, False, False)),
        ([[0.9, 0.1], [0.9, 0.95]], (True, False, False, True)),  # caption 0 fits both as well
        ([[0.9, 0.9], [0.1, 0.95]], (False, True, False, True)),
        ([[0.5, 0.5], [0.5, 0.5]], (False, False, False, True)),
    ],
)
def test_winogrounds_scores(scores: list, expected: tuple[bool, ...]) -> None:
    assert verdict(scores, (0, 1)) == expected


def test_ways_are_judged_one_by_one() -> None:
    scores = np.array([[[0.2, 0.1]], [[0.1, 0.2]]], np.float32)
    assert judge(scores, (0, -1))[:, 0].tolist() == [True, False]


def test_chance() -> None:
    assert chance((0, -1), 1)[0] == 1 / 2
    assert chance((0, 0, -1), 1)[0] == 1 / 3
    assert chance((0, *[-1] * 10), 1)[0] == 1 / 11
    assert chance((0, *[-1] * 4), 1)[0] == 1 / 5
    # Thrush et al., CVPR 2022, table 3: 25, 25 and 16.67 per cent.
    assert chance((0, 1), 2) == pytest.approx((1 / 4, 1 / 4, 1 / 6), abs=1e-9)
