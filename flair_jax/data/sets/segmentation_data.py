"""Pictures with a class at every pixel, read from files. Imports no JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flair_jax.data.folders import pictures_below
from flair_jax.data.image import open_picture, open_rgb
from flair_jax.data.sets.prompts import numbered_lines
from flair_jax.data.sets.segmentation_colours import BACKGROUND, Colour, choose_colours
from flair_jax.errors import ImageError, plural
from flair_jax.files import expand

IGNORED = 255  # a pixel that is not judged
THINGS = 80  # how many of COCO-Stuff's classes, the first ones, are objects
TEMPLATES = ("a photo of a {}.",)
_UNKNOWN = -1

# The class, `IGNORED` or `_UNKNOWN` for each value of an annotation, 0 to 255.
Labels = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SegmentationData:
    """Pictures, the class of every pixel, and the classes' words.

    Attributes:
      names: of the pictures, each once.
      classes: the classes' names, in the order of their numbers.
      texts: for each class the words that stand for it; a patch's score for a class is that of the best of them.
      templates: sentences with `{}` in the place of the words.
      short_side: usual length of a picture's shorter side, in pixels.
      read: number of a picture -> the picture in RGB, and uint8 [height, width], the class at each pixel or `IGNORED`;
        raises ImageError.
      dataset: the set's name, for titles.
      colours: of the classes in RGB, if the set has its own; see `palette`.
    """

    names: list[str]
    classes: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    short_side: int
    read: Callable[[int], tuple[Image.Image, np.ndarray]]
    dataset: str = ""
    colours: tuple[Colour, ...] = ()

    @property
    def palette(self) -> tuple[Colour, ...]:
        """The classes' colours, the same in all pictures of the set: its own, or else chosen for its classes."""
        return self.colours or choose_colours(self.classes)

    @property
    def has_background(self) -> bool:
        """Whether class 0 is the background: all that no other class covers."""
        return self.classes[0] == "background"

    def digest(self) -> str:
        """A hash of names, classes and words."""
        listing = json.dumps([self.names, self.classes, self.texts, self.templates])
        return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _known_classes() -> dict[str, Any]:
    """Class names shipped with the package; each list says where it is from."""
    return json.loads((Path(__file__).parent / "segmentation_classes.json").read_text(encoding="utf-8"))


def labels(first: int, count: int, *ignored: int) -> Labels:
    """Values from `first` are classes 0, 1, ...; 255 and `ignored` are not judged; others do not occur."""
    return labels_of({first + number: number for number in range(count)}, *ignored)


def labels_of(classes: dict[int, int], *ignored: int) -> Labels:
    """The class for each value from 0 to 255."""
    known = {IGNORED: IGNORED} | dict.fromkeys(ignored, IGNORED) | classes
    return tuple(known.get(value, _UNKNOWN) for value in range(256))


def open_files(
    folder: Path,
    marker: Path,
    *,
    classes: str,
    pictures: str,
    annotations: str,
    labels: dict[str, Labels],
    background: bool = False,
    only_things: bool = False,
    short_side: int = 336,
) -> SegmentationData:
    """A set of pictures and one annotation for each.

    Args:
      folder: the set's folder.
      marker: a list of the pictures' names, one a line, or a folder: then all pictures in it are meant.
      classes: which names of `segmentation_classes.json`.
      pictures: path of a picture, with `{}` for its name.
      annotations: path of its annotation without the ending.
      labels: endings of annotations, and what their values mean; the first that exists counts.
      background: whether class 0 is the background, before those named.
      only_things: of COCO-Stuff's classes, only those of objects.
      short_side: see `SegmentationData`.
    """
    after = pictures.split("{}")[1]
    if marker.is_file():
        names = list(dict.fromkeys(name for _, name in numbered_lines(marker)))
    else:
        found, _ = pictures_below(marker)
        paths = [path.relative_to(marker).as_posix() for path in found]
        names = [path.removesuffix(after) for path in paths if path.endswith(after)]
        if len(names) < len(paths):
            others = plural(len(paths) - len(names), "picture")
            logging.warning("%s: passes over %s not named *%s", marker, others, after)
    known = _known_classes()[classes]
    listed = known["names"][: THINGS if only_things else None]
    own = ("background",) if background else ()
    words = known.get("words", {})
    colours = tuple((red, green, blue) for red, green, blue in known.get("colours", ()))

    def read(number: int) -> tuple[Image.Image, np.ndarray]:
        stem = folder / annotations.format(names[number])
        endings = [ending for ending in labels if expand(f"{stem}{ending}").exists()]
        ending = next(iter(endings or labels))
        picture = open_rgb(folder / pictures.format(names[number]))
        return picture, _read_labels(expand(f"{stem}{ending}"), labels[ending], picture.size)

    return SegmentationData(
        names,
        (*own, *listed),
        tuple((words.get(name, name),) for name in (*own, *listed)),
        TEMPLATES,
        short_side,
        read,
        colours=(BACKGROUND, *colours) if background and colours else colours,
    )


def _read_labels(path: Path, labels: Labels, size: tuple[int, int]) -> np.ndarray:
    """An annotation as classes: uint8 [height, width]."""
    if not path.is_file():
        raise ImageError(f"{path}: no such annotation", "annotation is missing")
    try:
        opened = open_picture(path)
    except ImageError as error:
        raise ImageError(str(error), "annotation is broken") from error
    if opened.mode not in ("L", "P"):
        raise ImageError(
            f"{path}: an annotation has one number of 8 bits at each pixel, but this has mode {opened.mode}",
            "annotation is broken",
        )
    values = np.asarray(opened)
    if values.shape[::-1] != size:
        raise ImageError(
            f"{path}: is {values.shape[1]}x{values.shape[0]} pixels, its picture {size[0]}x{size[1]}",
            "annotation is broken",
        )
    classes = np.array(labels, np.int16)[values]
    if classes.min() == _UNKNOWN:
        wrong = sorted({int(value) for value in values[classes == _UNKNOWN]})
        raise ImageError(
            f"{path}: holds {', '.join(map(str, wrong[:5]))}, which the set does not have", "annotation is broken"
        )
    return classes.astype(np.uint8)
