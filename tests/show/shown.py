"""Reads the page's HTML."""

import base64
import html
import io
import re

import numpy as np
from PIL import Image


def tags(shown: str, name: str, kind: str = "") -> list[dict[str, str]]:
    """Attributes of every tag of a name, or of those of a class."""
    found = [
        {key: html.unescape(value) for key, value in re.findall(r'([\w-]+)="([^"]*)"', each)}
        for each in re.findall(rf"<{name}\b([^>]*)>", shown)
    ]
    return [each for each in found if kind in each.get("class", "").split() or not kind]


def decoded(url: str) -> np.ndarray:
    """The pixels of a data URL, [S1, S2, 4]."""
    data = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def pictures(shown: str) -> dict[str, np.ndarray]:
    """What the page's images show, by their alternative text."""
    return {each["alt"]: decoded(each["src"]) for each in tags(shown, "img")}


def ground_of(shown: str) -> np.ndarray:
    """The picture that lies under the maps."""
    return decoded(tags(shown, "div", "flair")[0]["style"].partition("url('")[2].partition("'")[0])


def laid_over(ground: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """What a browser shows: a map stretched over the picture, each pixel as far as it is opaque."""
    size = (ground.shape[1], ground.shape[0])
    stretched = np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BILINEAR)) / 255
    opacity = stretched[..., 3:]
    return 255 * opacity * stretched[..., :3] + (1 - opacity) * ground[..., :3]
