"""Small copies of pictures, for pages that need no other file. Imports no JAX."""

from __future__ import annotations

from PIL import Image

from flair_jax.data.image import open_rgb
from flair_jax.errors import ImageError
from flair_jax.pages import data_url

_SIDE = 240  # pixels of the longer side


def thumbnail(picture: str | bytes) -> str:
    """A small JPEG as a data URL, about 10 kB; empty if the picture cannot be read.

    Args:
      picture: its path, or its file.
    """
    try:
        opened = open_rgb(picture)
    except ImageError:
        return ""
    opened.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return data_url(opened, "jpeg", quality=80)
