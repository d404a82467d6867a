"""Parts of the page as HTML. Imports no JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from flair_jax import pages


def render(name: str, **values: Any) -> str:
    """Fills in a template, one of `flair_jax.pages` whose names begin with `app_`; values become text, never markup.

    Raises:
      FlairError: if Jinja2 is missing.
    """
    filled = pages.render(f"app_{name}", "the page", "app", **values)
    return filled.replace("{", "&#123;").replace("$", "&#36;")  # with which templates of Gradio's own would begin


def jpeg(pixels: np.ndarray) -> str:
    """An image [S1, S2, 3], as a data URL."""
    return pages.data_url(Image.fromarray(pixels), "jpeg")
