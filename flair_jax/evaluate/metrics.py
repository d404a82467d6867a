"""Metrics of retrieval and classification from a matrix of scores. NumPy only."""

from __future__ import annotations

import numpy as np

from flair_jax.errors import FlairError

RECALLS = (1, 5, 10)


def retrieval_metrics(similarity: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """Recall and rank of the right picture for each text, and of the best-ranked right text for each picture.

    A tie counts against the model: a right answer ranks behind every wrong one of equal score, so that a constant score
    earns nothing. Right answers do not compete with each other.

    Args:
      similarity: [I, T] scores, higher is better. `-inf` marks pairs that were not scored.
      image_of_text: [T] integers, the index of each text's picture. Every picture needs at least one text.

    Returns:
      For `text_to_image` and `image_to_text`: `_R@1`, `_R@5`, `_R@10` as fractions, `_mean_rank` and `_median_rank`
      counted from 1. The median of an even number of ranks is the lower middle one.

    Raises:
      FlairError: if the shapes do not fit, a score is NaN, or a picture has no text.
    """
    similarity, image_of_text = np.asarray(similarity), np.asarray(image_of_text)
    if similarity.ndim != 2 or 0 in similarity.shape or image_of_text.shape != similarity.shape[1:]:
        raise FlairError(
            f"similarity {similarity.shape} and image_of_text {image_of_text.shape} must be [I, T] and [T], not empty"
        )
    images = len(similarity)
    if image_of_text.dtype.kind not in "iu" or image_of_text.min() < 0 or image_of_text.max() >= images:
        raise FlairError(f"image_of_text must hold the picture of each text as an integer from 0 to {images - 1}")
    without_text = np.setdiff1d(np.arange(images), image_of_text)
    if without_text.size:
        raise FlairError(f"{without_text.size} picture(s) have no text, the first is number {without_text[0]}")
    own, image_ranks = rank_texts_of_images(similarity, 0, image_of_text)
    return metrics_from_ranks(count_at_least(similarity, own) - 1, image_ranks)


def rank_texts_of_images(scores: np.ndarray, first: int, image_of_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image-to-text side of some pictures, which needs their rows of the scores alone.

    Args:
      scores: [b, T] of the pictures `first` to `first + b - 1` with all texts.
      first: number of the first.
      image_of_text: integers [T].

    Returns:
      Scores [T] of the texts with their own pictures, `-inf` where that is not among these; and int64 [b], how many
      wrong texts rank before or with the best right one.

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

    best_own = np.full(len(scores), -np.inf, scores.dtype)
    np.maximum.at(best_own, rows, own[texts])
    at_least_as_good = (scores >= best_own[:, None]).sum(axis=1)
    own_at_best = np.bincount(rows, own[texts] >= best_own[rows], minlength=len(scores))
    return own, at_least_as_good - own_at_best.astype(np.int64)


def count_at_least(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many pictures score at least as well with each text as its own, int64 [T]; the counts of parts add up.

    Summed over all pictures and less 1, for the right one itself, these are the texts' ranks from 0.

    Args:
      scores: [b, T] of some pictures with all texts.
      own: [T], the texts' scores with their own pictures.
    """
    return (scores >= own).sum(axis=0)


def metrics_from_ranks(text_ranks: np.ndarray, image_ranks: np.ndarray) -> dict[str, float]:
    """What `retrieval_metrics` returns, from ranks counted from 0: of each text's picture, each picture's best text."""
    return {**_summary("text_to_image", text_ranks), **_summary("image_to_text", image_ranks)}


def _summary(direction: str, ranks: np.ndarray) -> dict[str, float]:
    """Metrics from ranks counted from 0."""
    middle = (len(ranks) - 1) // 2
    return {
        **{f"{direction}_R@{k}": float((ranks < k).mean()) for k in RECALLS},
        # The PyTorch release takes the mean in float32; rounding to it reproduces its digits.
        f"{direction}_mean_rank": float(np.float32(ranks.mean())) + 1,
        f"{direction}_median_rank": float(np.partition(ranks, middle)[middle]) + 1,
    }


def class_ranks(scores: np.ndarray, name_of_class: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank, from 0, of the right class of each picture.

    A tie counts against the model, as in `retrieval_metrics`. Only classes of the same name, which tie whatever the
    model does ("missile" and "sunglasses" are two classes of ImageNet each), rank by their number, as with CLIP.

    Args:
      scores: [B, M] of each picture with each of M different names, higher is better.
      name_of_class: [C] integers, the name of each class.
      labels: [B] integers, each picture's class.

    Returns:
      [B] integers.

    Raises:
      FlairError: if a score is NaN.
    """
    if np.isnan(scores).any():
        raise FlairError("the scores hold NaN: the model or its input is broken")
    own = scores[np.arange(len(labels)), name_of_class[labels]]
    at_least_as_good = (scores[:, name_of_class] >= own[:, None]).sum(axis=1)
    classes = np.arange(len(name_of_class))
    not_before = ((name_of_class == name_of_class[labels][:, None]) & (classes >= labels[:, None])).sum(axis=1)
    return at_least_as_good - not_before


def classification_metrics(labels: np.ndarray, ranks: np.ndarray) -> dict[str, float]:
    """Accuracies as fractions.

    Args:
      labels: [I] integers, each picture's class.
      ranks: [I] integers, from `class_ranks`.

    Returns:
      `top1` and `top5`, shares of pictures whose class is the first, or among the first five; `mean_per_class_top1`,
      the mean over the classes that have pictures of their own `top1`.
    """
    pictures = np.bincount(labels)
    right = np.bincount(labels, ranks < 1)
    return {
        "top1": float((ranks < 1).mean()),
        "top5": float((ranks < 5).mean()),
        "mean_per_class_top1": float((right[pictures > 0] / pictures[pictures > 0]).mean()),
    }
