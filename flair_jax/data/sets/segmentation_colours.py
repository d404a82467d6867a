"""Colours for the classes of a set that has none of its own. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from PIL import ImageColor

Colour = tuple[int, int, int]

BACKGROUND: Colour = (0, 0, 0)
_LEVELS = 12  # of each channel, among whose combinations colours are sought

# From linear sRGB to the cones' answers, and from their cube roots to OKLab: Ottosson, "A perceptual color space for
# image processing", 2020.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# What is seen without red and without green cones, in linear sRGB: Machado et al., "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", IEEE TVCG 2009, severity 1.
_VISIONS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)


@cache
def choose_colours(names: tuple[str, ...]) -> tuple[Colour, ...]:
    """One colour for each class, no two alike, which depend on the classes alone.

    The background is black, and a class whose name is that of a colour in CSS has this colour. Each of the others gets,
    one after the other, the colour that is farthest from all before it and from black and white, both as most people
    see and as those do who lack red or green cones (after Glasbey et al., "Colour displays for categorical images",
    2007, in OKLab).
    """
    chosen: dict[str, Colour] = {}
    for name in names:
        colour = BACKGROUND if name == "background" else _named(name)
        if colour is not None and colour not in chosen.values():
            chosen[name] = colour
    levels = np.linspace(0, 255, _LEVELS).round().astype(int)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    places = _seen(candidates)
    taken = _seen(np.array([BACKGROUND, (255, 255, 255), *chosen.values()]))
    nearest = np.linalg.norm(places[:, None] - taken, axis=-1).min(axis=1)
    for name in names:
        if name not in chosen:
            best = int(nearest.round(6).argmax())  # so that the last digits of a machine decide nothing
            red, green, blue = map(int, candidates[best])
            chosen[name] = (red, green, blue)
            nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=-1))
    return tuple(chosen[name] for name in names)


def _named(name: str) -> Colour | None:
    if name.lower() not in ImageColor.colormap:
        return None
    red, green, blue, *_ = ImageColor.getrgb(name)
    return red, green, blue


def _seen(colours: np.ndarray | Sequence[Colour]) -> Float[np.ndarray, "N 9"]:
    """Where colours are in OKLab, as people with three kinds of vision see them."""
    share = np.asarray(colours) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    visions = (np.clip(linear @ vision.T, 0, 1) for vision in _VISIONS)
    return np.concatenate([np.cbrt(each @ _CONES.T) @ _OKLAB.T for each in visions], axis=-1)
