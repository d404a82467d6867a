"""Which part of a picture each class takes, in the truth and as predicted. NumPy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from flair_jax.data.sets.segmentation_colours import Colour
from flair_jax.data.sets.segmentation_data import IGNORED

NOT_JUDGED = "not judged"


class Areas(NamedTuple):
    """Pixels by class.

    Attributes:
      truth: number of a class that occurs, or `IGNORED` -> its pixels.
      predicted: the same of the prediction, in which no pixel is ignored.
      right: pixels whose class is predicted.
    """

    truth: dict[int, int]
    predicted: dict[int, int]
    right: int

    @property
    def accuracy(self) -> float | None:
        """Share of the judged pixels that are right; None if none is judged."""
        judged = sum(self.truth.values()) - self.truth.get(IGNORED, 0)
        return self.right / judged if judged else None

    def to_json(self) -> str:
        """As text."""
        return json.dumps([[list(each.items()) for each in self[:2]], self.right])

    @classmethod
    def from_json(cls, text: str) -> Areas:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: if it is something else.
        """
        try:
            (truth, predicted), right = json.loads(text)
            areas = cls(_to_counts(truth), _to_counts(predicted), int(right))
        except (ValueError, TypeError, RecursionError):
            areas = cls({}, {}, 0)
        counts = [areas.right, *areas.truth.values(), *areas.predicted.values()]
        if min(counts) < 0 or not sum(areas.predicted.values()):
            raise ValueError(f"{text[:80]}: not the areas of classes")
        return areas


def _to_counts(pairs: list[list[int]]) -> dict[int, int]:
    return {int(number): int(count) for number, count in pairs}


def measure(truth: UInt8[np.ndarray, "H W"], predicted: UInt8[np.ndarray, "H W"]) -> Areas:
    """Counts the pixels of each class."""
    counts = (np.unique(labels, return_counts=True) for labels in (truth, predicted))
    of_truth, of_prediction = (dict(zip(*map(np.ndarray.tolist, each), strict=True)) for each in counts)
    return Areas(of_truth, of_prediction, int(((truth == predicted) & (truth != IGNORED)).sum()))


class Entry(NamedTuple):
    """A line of a legend.

    Attributes:
      name: of a class, or `NOT_JUDGED`.
      colour: None where pixels are not judged, which have none.
      truth: share of the picture's pixels, from 0 to 1.
      predicted: the same of the prediction; None where pixels are not judged.
    """

    name: str
    colour: Colour | None
    truth: float
    predicted: float | None


def legend(areas: Areas, classes: Sequence[str], colours: Sequence[Colour]) -> list[Entry]:
    """What occurs in a picture, largest in the truth first, then in the prediction; what is not judged comes last.

    Raises:
      ValueError: if a class's number is not among `classes`.
    """
    whole = sum(areas.predicted.values())

    def shares(number: int) -> tuple[float, float]:
        return areas.truth.get(number, 0) / whole, areas.predicted.get(number, 0) / whole

    numbers = {*areas.truth, *areas.predicted} - {IGNORED}
    if not numbers <= set(range(len(classes))):
        raise ValueError(f"{sorted(numbers)}: more classes than {len(classes)}")
    ordered = sorted(numbers, key=lambda number: (*(-share for share in shares(number)), number))
    entries = [Entry(classes[number], colours[number], *shares(number)) for number in ordered]
    ignored = areas.truth.get(IGNORED, 0)
    return entries + ([Entry(NOT_JUDGED, None, ignored / whole, None)] if ignored else [])


def percent(share: float | None) -> str:
    """A share in per cent with one decimal; "-" if there is none, and no 0.0 for what there is."""
    if not share:
        return "-"
    return "<0.1" if share < 0.0005 else f"{100 * share:.1f}"
