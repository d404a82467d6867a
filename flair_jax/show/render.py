"""The page's HTML, from the templates beside this file. Imports no JAX."""

from __future__ import annotations

import base64
import functools
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flair_jax.errors import printable
from flair_jax.packages import import_jinja

FOLDER = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """Fills in a template; every value is text, and shown as such.

    Raises:
      FlairError: if Jinja2 is missing.
    """
    template = environment().from_string((FOLDER / f"{name}.html.jinja").read_text(encoding="utf-8"))
    return str(template.render(values))


@functools.cache
def environment() -> Any:
    """Jinja2's, which escapes for HTML and for Gradio, to which `{` and `$` begin templates of its own.

    Raises:
      FlairError: if Jinja2 is missing.
    """
    jinja2 = import_jinja("the page", "app")
    from markupsafe import Markup  # Jinja2 brings it

    def escape(value: object) -> Markup:
        if isinstance(value, Markup):  # what a macro gave
            return value
        return Markup(html.escape(printable(value)).replace("{", "&#123;").replace("$", "&#36;"))  # noqa: S704

    return jinja2.Environment(
        autoescape=True, finalize=escape, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def jpeg(pixels: np.ndarray) -> str:
    """An image [S1, S2, 3], as a data URL."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return data_url(stream.getvalue(), "jpeg")


def data_url(image: bytes, kind: str) -> str:
    """An image file of a kind, such as "png", as a URL that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
