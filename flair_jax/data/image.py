"""Pictures as pixels, equal byte for byte to the PyTorch release's transforms. Imports no JAX.

Everything here runs on the host, in input workers; scaling and normalisation belong on the device
(`flair_jax.normalize`).
"""

from __future__ import annotations

import io
import math
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from flair_jax.errors import ImageError

_LEAST_SIDE = 8


def preprocess(image: str | os.PathLike[str] | Image.Image, size: int = 224) -> np.ndarray:
    """The evaluation transform: shorter side to `size` by PIL's antialiased bicubic, then the centre square.

    Orientation tags (EXIF) are not applied, as in the PyTorch release.

    Args:
      image: a picture's path, or a PIL image.
      size: S, side of the result in pixels.

    Returns:
      uint8 [S, S, 3].

    Raises:
      ImageError: if the file is missing, broken, truncated, not a picture, or too large to be one.
    """
    picture = open_rgb(image)
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    resized_long = int(size * long / short)
    _check_size(size, resized_long, f"{_name(image)}: a strip of {width}x{height} pixels, which resizing would blow up")
    new_size = (size, resized_long) if width <= height else (resized_long, size)
    if new_size != picture.size:
        picture = picture.resize(new_size, Image.Resampling.BICUBIC)
    # Half-way offsets go to the even neighbour, as Python's round does.
    left, top = round((new_size[0] - size) / 2), round((new_size[1] - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def resized_crop(
    image: str | os.PathLike[str] | Image.Image, box: tuple[int, int, int, int], size: int = 224
) -> np.ndarray:
    """The training transform for a given box: cut it out, then resize it by PIL's antialiased bicubic.

    Args:
      image: a picture's path, or a PIL image.
      box: top, left, height, width in pixels.
      size: S, side of the result in pixels.

    Returns:
      uint8 [S, S, 3].

    Raises:
      ImageError: as `preprocess`.
    """
    top, left, height, width = (int(value) for value in box)
    picture = open_rgb(image).crop((left, top, left + width, top + height))
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC))


def random_crop_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """A random box for `resized_crop`, drawn as torchvision's RandomResizedCrop draws it.

    The share of the area is uniform within `scale` and the logarithm of width over height within `ratio`; if ten such
    boxes do not fit in the picture, the box is the largest central one whose sides keep to `ratio`.

    Returns:
      Top, left, height, width in pixels.
    """
    for _ in range(10):
        share, shape, down, right = rng.random(4).tolist()
        area = width * height * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = ratio[0] * (ratio[1] / ratio[0]) ** shape
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return int(down * (height - box_height + 1)), int(right * (width - box_width + 1)), box_height, box_width
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def open_rgb(image: str | os.PathLike[str] | Image.Image | bytes) -> Image.Image:
    """A picture, or the bytes of its file, decoded to RGB; raises ImageError as `preprocess` does."""
    try:
        if isinstance(image, Image.Image):
            return _rgb(image)
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            _check_size(*opened.size, f"{_name(image)}: a picture of {opened.width}x{opened.height} pixels")
            return _rgb(opened)
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise ImageError(f"{_name(image)}: no such picture") from None
    except IsADirectoryError:
        raise ImageError(f"{_name(image)}: is a folder, not a picture") from None
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        if isinstance(error, UnidentifiedImageError):
            if (len(image) if isinstance(image, bytes) else os.path.getsize(str(image))) == 0:
                raise ImageError(f"{_name(image)}: the file is empty", "picture is empty") from None
            reason = "the format is not one that Pillow knows"
        else:
            reason = str(error).strip() or type(error).__name__
        kind = "picture is too large" if isinstance(error, Image.DecompressionBombError) else "picture is broken"
        raise ImageError(f"{_name(image)}: cannot be read as a picture ({reason})", kind) from error


def _rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # which would copy


def open_training_picture(data: bytes) -> Image.Image:
    """The bytes of a picture decoded to RGB, if it is large enough to show something.

    Raises:
      ImageError: as `preprocess`, or if a side has fewer than 8 pixels, as the counters of web pages have.
    """
    picture = open_rgb(data)
    if min(picture.size) < _LEAST_SIDE:
        raise ImageError(
            f"the picture: {picture.width}x{picture.height} pixels show nothing; {_LEAST_SIDE} a side are the least",
            "picture is too small",
        )
    return picture


def _check_size(width: int, height: int, what: str) -> None:
    """Pillow's own bound against decompression bombs, which stops a file that would fill the memory."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise ImageError(
            f"{what}, is over the limit of {2 * limit:,} pixels (PIL.Image.MAX_IMAGE_PIXELS, doubled)",
            "picture is too large",
        )


def _name(image: str | os.PathLike[str] | Image.Image | bytes) -> str:
    return "the picture" if isinstance(image, (Image.Image, bytes)) else str(image)
