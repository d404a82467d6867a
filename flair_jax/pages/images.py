"""Images within a page. Imports no JAX."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_url(image: Image.Image | bytes, kind: str, quality: int = 90) -> str:
    """An image as a URL that holds it, so that a page needs no other file.

    Args:
      image: an image, or the bytes of a file of this kind.
      kind: "png" or "jpeg".
      quality: of a JPEG that is made here, up to 95.
    """
    if isinstance(image, Image.Image):
        stream = io.BytesIO()
        image.save(stream, kind, **({"quality": quality} if kind == "jpeg" else {}))
        image = stream.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
