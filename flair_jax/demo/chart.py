"""Curves of a loss over the steps of a training, with what the page needs to draw axes. Imports no JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_ROOM = 1.06  # of the highest value, so that no curve touches the edge
_MOST_TICKS = 5


class Tick(NamedTuple):
    """A number at an axis.

    Attributes:
      at: per cent of the axis, from the left or from below.
      label: the number.
    """

    at: float
    label: str


def chart(curves: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """Curves for an SVG of 100 x 100 that may be stretched; steps are on a logarithmic scale.

    So the first steps, which fall the steepest and may be all that one of the curves has, have room.

    Args:
      curves: name -> (step from 1, loss), with one point at least.

    Returns:
      `curves`, name -> SVG path, `across` and `up`, the ticks of both axes.
    """
    steps = [step for curve in curves.values() for step, _ in curve]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    top = _ROOM * max(loss for curve in curves.values() for _, loss in curve)

    def across(step: int) -> float:
        return 100 * math.log(step / first) / math.log(last / first)

    paths = {
        name: "M" + " L".join(f"{across(step):.2f},{100 - 100 * loss / top:.2f}" for step, loss in curve) + " h0"
        for name, curve in curves.items()
    }
    round_steps = [m * 10**e for e in range(len(str(last))) for m in (1, 2, 5) if first <= m * 10**e <= last]
    every = _interval(top)
    return {
        "curves": paths,
        "across": [Tick(across(step), f"{step:,}") for step in round_steps],
        "up": [Tick(100 * number * every / top, f"{number * every:g}") for number in range(int(top / every) + 1)],
    }


def _interval(top: float) -> float:
    """1, 2 or 5 times a power of ten, of which a few make up the axis."""
    power = 10.0 ** math.floor(math.log10(top / _MOST_TICKS))
    return next(m * power for m in (1, 2, 5, 10) if top / (m * power) <= _MOST_TICKS)
