"""Maps over an image's patches, drawn over the image. Needs matplotlib; imports no JAX."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from flair_jax.errors import FlairError
from flair_jax.packages import how_to_install

# Smaller images are enlarged to at least this side, by a whole factor, so that the map over them is smooth.
_SIDE = 448
_STRENGTH = 0.7  # opacity of a map where it is highest
_PIXELS_A_PATCH = 4  # of a map that a browser enlarges and smooths
_COLUMNS = 4


def relative(maps: np.ndarray) -> np.ndarray:
    """Maps as the paper shows them: negative values cut to 0, each map [..., G1, G2] divided by its maximum.

    A map without a positive value becomes 0 everywhere.
    """
    positive = np.maximum(maps, 0)
    highest = positive.max(axis=(-2, -1), keepdims=True)
    return np.divide(positive, highest, out=np.zeros_like(positive), where=highest > 0)


def overlay(pixels: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """An image with a map laid over it: paler where the map is low, coloured from purple to yellow where it is high.

    Args:
      pixels: uint8 [S1, S2, 3].
      shown: [G1, G2], of any scale; drawn `relative` to its maximum.

    Returns:
      uint8 [S1 f, S2 f, 3], where f is 1 or the least factor that makes the shorter side 448.

    Raises:
      FlairError: if matplotlib is missing.
    """
    colours = _matplotlib().colormaps["plasma"]
    paler = _paler(pixels)
    values = Image.fromarray(relative(shown).astype(np.float32)).resize(paler.shape[1::-1], Image.Resampling.BICUBIC)
    height = np.clip(np.asarray(values), 0, 1)[..., None]
    mixed = paler + _STRENGTH * height * (colours(height[..., 0])[..., :3] - paler)
    return np.rint(255 * mixed).astype(np.uint8)


def ground(pixels: np.ndarray) -> np.ndarray:
    """The image of an `overlay` without its map: uint8 [S1 f, S2 f, 3]."""
    return np.rint(255 * _paler(pixels)).astype(np.uint8)


def layer(shown: np.ndarray) -> bytes:
    """The map of an `overlay` without its image, for a browser that lays it over `ground`.

    Args:
      shown: [G1, G2], as `overlay` takes it.

    Returns:
      A PNG of 4 x 4 pixels a patch, 1 to 2 kB, coloured, and the more opaque the higher the map. Stretched over
      `ground` it looks like the `overlay`, but for how it is smoothed.

    Raises:
      FlairError: if matplotlib is missing.
    """
    colours = _matplotlib().colormaps["plasma"](np.arange(256))[:, :3]
    size = (shown.shape[1] * _PIXELS_A_PATCH, shown.shape[0] * _PIXELS_A_PATCH)
    values = Image.fromarray(relative(shown).astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    drawn = Image.fromarray(np.rint(255 * np.clip(np.asarray(values), 0, 1)).astype(np.uint8))
    drawn.putpalette(np.rint(255 * colours).astype(np.uint8).tobytes())
    opacity = np.rint(_STRENGTH * np.arange(256)).astype(np.uint8)
    stream = io.BytesIO()
    drawn.save(stream, "PNG", transparency=opacity.tobytes(), optimize=True)
    return stream.getvalue()


def _paler(pixels: np.ndarray) -> np.ndarray:
    """Enlarged, and closer to light grey: float64 [S1 f, S2 f, 3] from 0 to 1."""
    factor = max(1, math.ceil(_SIDE / min(pixels.shape[:2])))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)) / 255
    return 0.5 * image + 0.2 * image.mean(axis=-1, keepdims=True) + 0.15


def contact_sheet(pixels: np.ndarray, titles: Sequence[str], shown: Sequence[np.ndarray], heading: str) -> Any:
    """An image, and beside it its maps, each under a title.

    Args:
      pixels: uint8 [S1, S2, 3].
      titles: one a map; long lines are broken, at most four times.
      shown: maps as `overlay` takes them.
      heading: what the maps are.

    Returns:
      A matplotlib Figure; `savefig` writes it.

    Raises:
      FlairError: if matplotlib is missing.
    """
    wrapped = [
        "\n".join(textwrap.fill(line, 33, max_lines=4, placeholder=" ...") for line in title.splitlines())
        for title in titles
    ]
    rows = math.ceil((1 + len(shown)) / _COLUMNS)
    columns = math.ceil((1 + len(shown)) / rows)
    lines = 1 + max(title.count("\n") for title in wrapped)
    figure = new_figure(2.6 * columns, rows * (2.6 + 0.17 * lines) + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for each in axes:
        each.axis("off")
    drawn = [pixels, *(overlay(pixels, each) for each in shown)]
    for place, image, title in zip(axes, drawn, ["the picture", *wrapped], strict=False):
        place.imshow(image, interpolation="antialiased")
        place.set_title(title, fontsize=9, parse_math=False)
    figure.suptitle(heading, fontsize=9, color="0.4")
    figure.set_layout_engine("compressed")
    return figure


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure, in inches.

    Raises:
      FlairError: if matplotlib is missing.
    """
    return _matplotlib().figure.Figure(figsize=(width, height))


def _matplotlib() -> ModuleType:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise FlairError(f"drawing needs matplotlib: {how_to_install('demo')}") from None
    return matplotlib
