"""How well predicted classes fit the true ones, pixel by pixel. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from flair_jax.data.sets.segmentation_data import IGNORED


def confusion_matrix(
    truth: UInt8[np.ndarray, "H W"], predicted: UInt8[np.ndarray, "H W"], classes: int
) -> Int[np.ndarray, "C C"]:
    """Numbers of pixels by true class (row) and predicted class (column), without those whose truth is ignored."""
    judged = truth != IGNORED
    pairs = truth[judged].astype(np.int64) * classes + predicted[judged]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def segmentation_metrics(confusion: Int[np.ndarray, "C C"], classes: Sequence[str]) -> dict[str, Any]:
    """Metrics of a whole set, each a share from 0 to 1, from the sum of its confusion matrices.

    The IoU of a class is TP / (TP + FP + FN) over all pixels of the set (Everingham et al., "The PASCAL Visual Object
    Classes Challenge: A Retrospective", IJCV 2015). A class that is neither present nor predicted has none and is not
    in the mean.

    Returns:
      `mean_iou`, `pixel_accuracy`, and `iou`: the classes' names with their IoU or None.
    """
    right = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    iou = {name: int(hit) / int(all_) if all_ else None for name, hit, all_ in zip(classes, right, union, strict=True)}
    known = [value for value in iou.values() if value is not None]
    return {
        "mean_iou": float(np.mean(known)) if known else 0.0,
        "pixel_accuracy": int(right.sum()) / max(int(confusion.sum()), 1),
        "iou": iou,
    }
