"""Metrics of retrieval and classification from scores, and how equal scores affect them. NumPy only.

In every ranking, equal scores are in the order of their index, as after a stable descending sort.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from flair_jax.errors import FlairError, plural

RECALLS = (1, 5, 10)
_ROWS = 256  # images whose scores are compared at once


class Ranks(NamedTuple):
    """Ranks of the right answers to N questions, from 0: int64 [N].

    Attributes:
      by_index: with equal scores in the order of their index.
      ties_for: with the right answer before all others of equal score.
      ties_against: with the right answer after all wrong ones of equal score.
    """

    by_index: np.ndarray
    ties_for: np.ndarray
    ties_against: np.ndarray


@dataclasses.dataclass(frozen=True)
class Ties:
    """How equal scores affect the metrics.

    Attributes:
      share: for each kind of ranks, such as "text_to_image", the share that depends on the order of equal scores.
      ties_for: metrics that would change if each right answer came before all others of equal score.
      ties_against: metrics that would change if it came after them; a constant score is left with nothing here.
    """

    share: dict[str, float]
    ties_for: dict[str, float]
    ties_against: dict[str, float]


def measure(
    ranks: Mapping[str, Ranks], summary: Callable[[str, np.ndarray], dict[str, float]]
) -> tuple[dict[str, float], Ties]:
    """Metrics of ranks by index, and how ties affect them.

    Args:
      ranks: of each kind.
      summary: (kind, ranks [N]) -> metrics by name.
    """
    by_index, ties_for, ties_against = (
        {key: value for kind, each in ranks.items() for key, value in summary(kind, each[order]).items()}
        for order in range(len(Ranks._fields))
    )
    share = {kind: float((each.ties_for != each.ties_against).mean()) for kind, each in ranks.items()}
    bounds = (
        {key: value for key, value in bound.items() if value != by_index[key]} for bound in (ties_for, ties_against)
    )
    return by_index, Ties(share, *bounds)


def retrieval_metrics(similarity: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """Recall and rank of the right image for each text, and of the best-ranked right text for each image.

    Equal scores rank in the order of their index, as after a stable descending sort; `flair-jax evaluate` also reports
    their effect.

    Args:
      similarity: [I, T] scores, higher is better. `-inf` marks pairs that were not scored, which tie.
      image_of_text: [T] integers, the index of each text's image. Every image needs at least one text.

    Returns:
      For `text_to_image` and `image_to_text`: `_R@1`, `_R@5`, `_R@10` as fractions, `_mean_rank` and `_median_rank`
      counted from 1. The median of an even number of ranks is the mean of the two middle ones, rounded down.

    Raises:
      FlairError: if the shapes do not fit, a score is NaN, or a image has no text.
    """
    similarity, image_of_text = np.asarray(similarity), np.asarray(image_of_text)
    if similarity.dtype.kind != "f":  # -inf, which marks a text of another image, is no whole number
        similarity = similarity.astype(np.float64)
    if similarity.ndim != 2 or 0 in similarity.shape or image_of_text.shape != similarity.shape[1:]:
        raise FlairError(
            f"similarity {similarity.shape} and image_of_text {image_of_text.shape} must be [I, T] and [T], not empty"
        )
    images = len(similarity)
    if image_of_text.dtype.kind not in "iu" or image_of_text.min() < 0 or image_of_text.max() >= images:
        raise FlairError(f"image_of_text must hold the image of each text as an integer from 0 to {images - 1}")
    without_text = np.setdiff1d(np.arange(images), image_of_text)
    if without_text.size:
        raise FlairError(f"no text for {plural(without_text.size, 'image')}, such as number {without_text[0]}")
    starts = range(0, images, _ROWS)
    parts = [rank_texts_of_images(similarity[start : start + _ROWS], start, image_of_text) for start in starts]
    own = np.max([own for own, _ in parts], axis=0)
    counts = sum(count_images(similarity[start : start + _ROWS], start, image_of_text, own) for start in starts)
    return measure_retrieval(np.asarray(counts), np.concatenate([ranks for _, ranks in parts]))[0]


def rank_texts_of_images(scores: np.ndarray, first: int, image_of_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image-to-text side for some images, which needs only their rows of the scores.

    Args:
      scores: [b, T] of the images `first` to `first + b - 1` with all texts; each has a text.
      first: number of the first.
      image_of_text: integers [T].

    Returns:
      Scores [T] of the texts with their own images, `-inf` where that is not among these; and int64 [b, 3], the
      `Ranks` of each image's best right text.

    Raises:
      FlairError: if a score is NaN.
    """
    if np.isnan(scores).any():
        raise FlairError("similarity holds NaN: the model or its input is broken")
    rows = image_of_text - first
    texts = np.flatnonzero((rows >= 0) & (rows < len(scores)))
    rows = rows[texts]
    own = np.full(len(image_of_text), -np.inf, scores.dtype)
    own[texts] = scores[rows, texts]

    best = np.full(len(scores), -np.inf, scores.dtype)
    np.maximum.at(best, rows, own[texts])
    is_best = own[texts] == best[rows]
    first_best = np.full(len(scores), len(image_of_text))
    np.minimum.at(first_best, rows[is_best], texts[is_best])

    better = _count_in_rows(scores > best[:, None])
    equal = _count_in_rows(scores == best[:, None]) - np.bincount(rows[is_best], minlength=len(scores))
    before = np.zeros_like(better)
    tied = np.flatnonzero(equal)
    stands_before = np.arange(len(image_of_text)) < first_best[tied, None]
    before[tied] = _count_in_rows((scores[tied] == best[tied, None]) & stands_before)
    return own, np.stack([better + before, better, better + equal], axis=1)


def count_images(scores: np.ndarray, first: int, image_of_text: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The text-to-image side for some images; counts of different images add up.

    Args:
      scores: [b, T] of the images `first` to `first + b - 1` with all texts.
      first: number of the first.
      image_of_text: integers [T].
      own: [T], the texts' scores with their own images.

    Returns:
      int64 [3, T]: for each text, how many of these images score better than its own image, how many score the same and
      come before it, and how many score the same, itself included.
    """
    better = (scores > own).sum(axis=0, dtype=np.int32)  # twice as fast as counting in int64
    equal = (scores == own).sum(axis=0, dtype=np.int32)
    rows = image_of_text - first
    before = np.where(rows >= len(scores), equal, 0)
    here = np.flatnonzero((rows >= 0) & (rows < len(scores)) & (equal > 1))
    stands_before = np.arange(len(scores))[:, None] < rows[here]
    before[here] = np.count_nonzero((scores[:, here] == own[here]) & stands_before, axis=0)
    return np.stack([better, before, equal]).astype(np.int64)


def _count_in_rows(where: np.ndarray) -> np.ndarray:
    """How often each row of bool [b, T] is true: int64 [b]; four times as fast as counting along the axis."""
    return np.fromiter(map(np.count_nonzero, where), np.int64, len(where))


def measure_retrieval(counts: np.ndarray, image_ranks: np.ndarray) -> tuple[dict[str, float], Ties]:
    """What `retrieval_metrics` returns, and how ties affect it.

    Args:
      counts: int64 [3, T], the sum over all images of `count_images`.
      image_ranks: int64 [I, 3], of all images, from `rank_texts_of_images`.
    """
    better, before, equal = counts
    text_ranks = Ranks(better + before, better, better + equal - 1)
    return measure({"text_to_image": text_ranks, "image_to_text": Ranks(*image_ranks.T)}, _summary)


def _summary(direction: str, ranks: np.ndarray) -> dict[str, float]:
    """Metrics from ranks counted from 0."""
    return {
        **{f"{direction}_R@{k}": float((ranks < k).mean()) for k in RECALLS},
        # The PyTorch release takes the mean in float32; rounding to it reproduces its digits.
        f"{direction}_mean_rank": float(np.float32(ranks.mean())) + 1,
        f"{direction}_median_rank": float(np.floor(np.median(ranks))) + 1,
    }


def class_ranks(scores: np.ndarray, name_of_class: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ranks, from 0, of the right class of each image.

    Classes of the same name tie whatever the model does: "missile" and "sunglasses" are two of ImageNet's each.

    Args:
      scores: [B, M] of each image with each of M different names, higher is better.
      name_of_class: [C] integers, the name of each class.
      labels: [B] integers, each image's class.

    Returns:
      int64 [B, 3], `Ranks` of each image.

    Raises:
      FlairError: if a score is NaN.
    """
    if np.isnan(scores).any():
        raise FlairError("the scores hold NaN: the model or its input is broken")
    own = scores[np.arange(len(labels)), name_of_class[labels]][:, None]
    scores = scores[:, name_of_class]
    better, equal = _count_in_rows(scores > own), scores == own
    before = _count_in_rows(equal & (np.arange(len(name_of_class)) < labels[:, None]))
    return np.stack([better + before, better, better + _count_in_rows(equal) - 1], axis=1)


def classification_metrics(labels: np.ndarray, ranks: np.ndarray) -> dict[str, float]:
    """Accuracies as fractions.

    Args:
      labels: [I] integers, each image's class.
      ranks: [I] integers, one column of `class_ranks`.

    Returns:
      `top1` and `top5`, shares of images whose class is the first, or among the first five; `mean_per_class_top1`,
      the mean over the classes that have images of their own `top1`.
    """
    count = np.bincount(labels)
    right = np.bincount(labels, ranks < 1)
    return {
        "top1": float((ranks < 1).mean()),
        "top5": float((ranks < 5).mean()),
        "mean_per_class_top1": float((right[count > 0] / count[count > 0]).mean()),
    }
