"""Pictures as pixels, equal byte for byte to the PyTorch release's transforms. Imports no JAX.

Everything here runs on CPUs, in input workers; scaling and normalisation belong on the device
(`flair_jax.normalize`). As in the release, a picture becomes RGB by Pillow's plain conversion: transparency is dropped,
colour profiles and orientation tags (EXIF) are not applied, and of several pictures in a file the first is taken.
`flair_jax.data.formats` says which files are read at all, and what decoding one may cost.
"""

from __future__ import annotations

import io
import logging
import math
import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from flair_jax.data.formats import MOST_MEMORY, check_cost, examine, read_file, too_large
from flair_jax.data.placement import place
from flair_jax.errors import ImageError, printable
from flair_jax.models.config import VisionConfig

TOO_DEEP = "more than 8 bits a channel, which the conversion to RGB cuts off at 255, as in the release"

_LEAST_SIDE = 8
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LOGGER = logging.getLogger(__name__)
_said: set[str] = set()  # remarks that this process has logged


def preprocess(
    image: str | os.PathLike[str] | Image.Image, size: int | VisionConfig = 224, remarks: list[str] | None = None
) -> np.ndarray:
    """The evaluation transform: by default the shorter side to S by PIL's antialiased bicubic, then the centre square.

    Args:
      image: a picture's path, or a PIL image.
      size: the model's `config.vision`, which says how its pictures are resized; or S, side of the result in pixels,
        for the default.
      remarks: list that gets a sentence about an image which 8-bit RGB cannot represent (see `remark_on`); without it,
        the first such image is logged as a warning.

    Returns:
      uint8 [S, S, 3].

    Raises:
      ImageError: if the file is missing, broken, truncated, no picture of `formats.FORMATS`, or over a bound.
    """
    picture = open_rgb(image, remarks)
    width, height = picture.size
    vision = size if isinstance(size, VisionConfig) else VisionConfig(image_size=int(size))
    placed, side = place(width, height, vision), vision.image_size
    if 4 * (placed.width * placed.height + width * height) > MOST_MEMORY:
        raise too_large(
            f"{_name(image)}: a strip of {width}x{height} pixels, which resizing would blow up to "
            f"{placed.width}x{placed.height}"
        )
    if (placed.width, placed.height) != picture.size:
        picture = picture.resize((placed.width, placed.height), RESAMPLING[vision.interpolation])
    if placed.left <= 0 and placed.top <= 0:
        return np.array(picture.crop((-placed.left, -placed.top, side - placed.left, side - placed.top)))
    square = Image.new("RGB", (side, side), (vision.fill_color,) * 3)
    square.paste(picture, (placed.left, placed.top))
    return np.array(square)


def resized_crop(
    image: str | os.PathLike[str] | Image.Image,
    box: tuple[int, int, int, int],
    size: int = 224,
    interpolation: str = VisionConfig.interpolation,
) -> np.ndarray:
    """The training transform for a given box: cut it out, then resize it, antialiased, to a square.

    Args:
      image: a picture's path, or a PIL image.
      box: top, left, height, width in pixels.
      size: S, side of the result in pixels.
      interpolation: see `VisionConfig`.

    Returns:
      uint8 [S, S, 3].

    Raises:
      ImageError: as `preprocess`.
    """
    top, left, height, width = (int(value) for value in box)
    picture = open_rgb(image).crop((left, top, left + width, top + height))
    return np.array(picture.resize((size, size), RESAMPLING[interpolation]))


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


def open_picture(image: str | os.PathLike[str] | bytes, most_pixels: int = MOST_MEMORY) -> Image.Image:
    """A picture's file, or its bytes, decoded in the mode that it is stored in.

    Args:
      image: a path, or the bytes of a file.
      most_pixels: a bound below those of `flair_jax.data.formats`.

    Raises:
      ImageError: as `preprocess`.
    """
    if not isinstance(image, (str, os.PathLike, bytes)):
        raise ImageError(
            f"a picture is a path, the bytes of a file or a PIL image, not {type(image).__name__}; "
            "PIL.Image.fromarray makes one of an array, and PIL.Image.open of an open file",
            "picture is not a file",
        )
    try:
        file = examine(image if isinstance(image, bytes) else read_file(image))
        with Image.open(io.BytesIO(file.data), formats=(file.format,)) as opened:
            check_cost(opened, file, most_pixels)
            opened.load()
            return opened
    except MemoryError:
        raise
    except ImageError as error:
        raise ImageError(f"{_name(image)}: {error}", error.kind) from None
    except FileNotFoundError:
        raise ImageError(f"{_name(image)}: no such picture", "picture is missing") from None
    except IsADirectoryError:
        raise ImageError(f"{_name(image)}: is a folder, not a picture", "picture is not a file") from None
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = str(error).strip() or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"a {file.format} file whose header is damaged"
        kind = "picture is too large" if isinstance(error, Image.DecompressionBombError) else "picture is broken"
        raise ImageError(f"{_name(image)}: cannot be read as a picture ({reason})", kind) from error


def open_rgb(image: str | os.PathLike[str] | Image.Image | bytes, remarks: list[str] | None = None) -> Image.Image:
    """A PIL image, or a picture's path or bytes, decoded to RGB; arguments and errors are those of `preprocess`."""
    picture = image if isinstance(image, Image.Image) else open_picture(image)
    remark = remark_on(picture)
    if remark and remarks is not None:
        remarks.append(f"{_name(image)}: {remark}")
    elif remark and remark not in _said:
        _said.add(remark)
        _LOGGER.warning("%s: %s; more of these are not named", _name(image), remark)
    try:
        picture.load()
        return picture if picture.mode == "RGB" else picture.convert("RGB")  # which would copy
    except MemoryError:
        raise
    except Exception as error:  # a mode without a way to RGB, or a PIL image that is read only now
        raise ImageError(f"{_name(image)}: cannot be read as a picture ({error})") from error


def remark_on(picture: Image.Image) -> str:
    """Why conversion to 8-bit RGB may leave nothing visible of an image, in a few words; usually ""."""
    return TOO_DEEP if picture.mode in ("I", "F") or picture.mode.startswith("I;") else ""


def open_training_picture(data: bytes, remarks: list[str] | None = None) -> Image.Image:
    """The bytes of a picture decoded to RGB, if it is large enough to show something; `remarks` as in `preprocess`.

    Raises:
      ImageError: as `preprocess`, or if a side has fewer than 8 pixels, as the counters of web pages have.
    """
    picture = open_rgb(data, remarks)
    if min(picture.size) < _LEAST_SIDE:
        raise ImageError(
            f"the picture: {picture.width}x{picture.height} pixels show nothing; {_LEAST_SIDE} a side are the least",
            "picture is too small",
        )
    return picture


def _name(image: str | os.PathLike[str] | Image.Image | bytes) -> str:
    return "the picture" if isinstance(image, (Image.Image, bytes)) else printable(image)
