"""Small copies of pictures, for pages that need no other file. Imports no JAX."""

from __future__ import annotations

import base64
import io

from PIL import Image

from flair_jax.data.image import open_rgb
from flair_jax.errors import ImageError

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
    data = io.BytesIO()
    opened.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
