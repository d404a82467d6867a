"""Pictures, phrases, and where in the pictures lies what the phrases name. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from flair_jax.data.captions import fault_of
from flair_jax.data.image import open_rgb
from flair_jax.data.sets.grounding_regions import Region, coco_masks
from flair_jax.errors import DatasetError, ImageError


@dataclasses.dataclass(frozen=True)
class Phrase:
    """One phrase, as a reader gives it.

    Attributes:
      image: path of its picture.
      size: width and height of the picture that was annotated, in pixels.
      text: the phrase.
      region: what it names.
      kinds: what it is about, in the set's own words; there may be none.
    """

    image: Path
    size: tuple[int, int]
    text: str
    region: Region
    kinds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class GroundingData:
    """Pictures with phrases to find in them.

    Attributes:
      images: paths of I pictures, each once.
      sizes: their widths and heights in pixels when they were annotated.
      phrases: numbers of each picture's phrases, in the order of the set; at least one.
      texts: N phrases.
      regions: of each.
      kinds: of each; see `Phrase`.
      left_out: how many phrases the set has besides that are not judged, by the reason.
    """

    images: list[Path]
    sizes: list[tuple[int, int]]
    phrases: list[list[int]]
    texts: list[str]
    regions: list[Region]
    kinds: list[tuple[str, ...]]
    left_out: dict[str, int]

    @property
    def outlined(self) -> int:
        """How many phrases have outlines; the others have boxes."""
        return sum(bool(region.outlines) for region in self.regions)

    def digest(self) -> str:
        """A hash of paths, phrases and regions."""
        hashed = hashlib.sha256(json.dumps([*map(str, self.images), self.sizes, self.phrases, self.kinds]).encode())
        for text, region in zip(self.texts, self.regions, strict=True):
            hashed.update(json.dumps([text, region.boxes, region.outlines]).encode())
        return hashed.hexdigest()

    def read(self, number: int) -> tuple[Image.Image, list[np.ndarray]]:
        """A picture and the masks of its phrases.

        Returns:
          The picture in RGB, and for each of its `phrases` bool [height, width].

        Raises:
          ImageError: if the picture cannot be read, is not of the size that was annotated, or an outline is damaged.
        """
        path, size = self.images[number], self.sizes[number]
        picture = open_rgb(path)
        if picture.size != size:
            raise ImageError(
                f"{path}: is {picture.width}x{picture.height} pixels, and {size[0]}x{size[1]} were annotated",
                "annotation is broken",
            )
        masks: dict[int, np.ndarray] = {}  # of the regions, of which several phrases may have the same
        try:
            for phrase in self.phrases[number]:
                region = self.regions[phrase]
                if id(region) not in masks:
                    masks[id(region)] = region.mask(size)
        except ImageError as error:
            raise ImageError(f"{path}: {error}", error.kind) from None
        return picture, [masks[id(self.regions[phrase])] for phrase in self.phrases[number]]


def gather(phrases: Iterable[Phrase], left_out: collections.Counter[str], marker: Path) -> GroundingData:
    """The phrases of a reader, by pictures.

    Args:
      phrases: of the reader.
      left_out: which it fills, while it is read, with what it passes over.
      marker: the set's file or folder, for errors.

    Raises:
      DatasetError: of the reader; or if there are no phrases, one cannot be read as text, or two sizes are given for a
        picture.
    """
    index: dict[Path, int] = {}
    data = GroundingData([], [], [], [], [], [], {})
    for phrase in phrases:
        if fault := fault_of(phrase.text):
            raise DatasetError(f"{marker}: a phrase of {phrase.image.name} has {fault}; mend it, or take it out")
        number = index.setdefault(phrase.image, len(index))
        if number == len(data.images):
            data.images.append(phrase.image)
            data.sizes.append(phrase.size)
            data.phrases.append([])
        elif data.sizes[number] != phrase.size:
            raise DatasetError(f"{marker}: gives {phrase.image.name} two sizes, {data.sizes[number]} and {phrase.size}")
        data.phrases[number].append(len(data.texts))
        data.texts.append(phrase.text)
        data.regions.append(phrase.region)
        data.kinds.append(phrase.kinds)
    if not data.texts:
        raise DatasetError(f"{marker}: holds no phrases with a region")
    if any(isinstance(outline, list) for region in data.regions for outline in region.outlines):
        coco_masks()  # if it is missing, say so before the work
    return dataclasses.replace(data, left_out=dict(left_out))
