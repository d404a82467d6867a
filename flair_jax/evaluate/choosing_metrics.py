"""Whether scores of pictures and captions choose those that belong together; equal scores count against the model."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

ONE_PICTURE = ("accuracy",)
SEVERAL_PICTURES = ("text", "image", "group")


def judge(scores: Float[np.ndarray, "W I T"], owners: Sequence[int]) -> Bool[np.ndarray, "W 4"]:
    """Judges one question.

    Args:
      scores: by each of W ways, of I pictures with T captions.
      owners: for each caption the number of the picture that it is true of, from 0, or -1.

    Returns:
      For each way: whether every picture scores higher with each of its own captions than with any other (the text
      score of Winoground, Thrush et al., CVPR 2022, section 3.3; with one picture, whether its true captions beat the
      false ones); whether every caption of a picture scores higher with it than with any other picture (image score);
      both (group score); and whether equal scores decided one of these.
    """
    true = np.arange(scores.shape[1])[:, None] == np.asarray(owners)
    text, text_tied = _beats(scores, true)
    owned = true.any(axis=0)
    image, image_tied = _beats(scores[..., owned].swapaxes(1, 2), true[:, owned].T)
    return np.stack([text, image, text & image, text_tied | image_tied], axis=-1)


def _beats(
    scores: Float[np.ndarray, "W N M"], true: Bool[np.ndarray, "N M"]
) -> tuple[Bool[np.ndarray, " W"], Bool[np.ndarray, " W"]]:
    """Whether in every row all that is true scores higher than all else, and whether the two are equal in one."""
    lowest = np.where(true, scores, np.inf).min(axis=-1)
    highest = np.where(true, -np.inf, scores).max(axis=-1)
    return (lowest > highest).all(axis=-1), (lowest == highest).any(axis=-1)


@functools.cache
def chance(owners: tuple[int, ...], pictures: int) -> tuple[float, float, float]:
    """How often scores at random, of which no two are equal, get the text, image and group score.

    With one picture the true captions are the highest in one of C(captions, true ones) selections. With several, every
    order of the scores is tried, so there may be only a few: 24 for two pictures and two captions.
    """
    count = pictures * len(owners)
    if pictures == 1:
        text = 1 / math.comb(count, count - owners.count(-1))
        return text, 1.0, text
    orders = np.array(list(itertools.permutations(range(count))), np.float32).reshape(-1, pictures, len(owners))
    text, image, group = judge(orders, owners)[:, :3].mean(axis=0).tolist()
    return text, image, group
