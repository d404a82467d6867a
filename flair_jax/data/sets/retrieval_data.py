"""What retrieval sets are: pictures with captions, and where they lie. Imports no JAX."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from flair_jax.data.captions import fault_of
from flair_jax.data.formats import read_file
from flair_jax.data.names import is_hidden
from flair_jax.errors import DatasetError
from flair_jax.files import expand


class StoredPicture(abc.ABC):
    """A picture that is part of a file: hashable, and equal only to itself in the same place."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What it is called in messages."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """The picture's own file.

        Raises:
          ImageError: if it cannot be read.
        """

    def __str__(self) -> str:
        return self.name


Picture: TypeAlias = Path | StoredPicture
Pair = tuple[Picture, str]


def read_picture(picture: Picture) -> bytes:
    """The contents of a picture's file.

    Raises:
      OSError, ImageError: if it cannot be read.
    """
    return picture.read() if isinstance(picture, StoredPicture) else read_file(picture)


@dataclasses.dataclass(frozen=True)
class RetrievalData:
    """Pictures and captions to match.

    Attributes:
      images: I pictures, each once: paths, or places in a file that holds several.
      texts: T captions.
      image_of_text: int64 [T], the index of each caption's picture.
    """

    images: list[Picture]
    texts: list[str]
    image_of_text: np.ndarray

    def digest(self) -> str:
        """A hash of the paths and captions."""
        listing = "\0".join([*map(str, self.images), *self.texts, *map(str, self.image_of_text)])
        return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()

    def keep_images(self, keep: np.ndarray) -> RetrievalData:
        """The set without some pictures and their captions; `keep` is bool [I]."""
        texts = keep[self.image_of_text]
        return RetrievalData(
            [path for path, kept in zip(self.images, keep, strict=True) if kept],
            [text for text, kept in zip(self.texts, texts, strict=True) if kept],
            (np.cumsum(keep) - 1)[self.image_of_text[texts]],
        )


@dataclasses.dataclass(frozen=True)
class RetrievalSet:
    """One retrieval set.

    Attributes:
      name: for `--dataset`.
      annotations: the file, or a pattern that exactly one file matches, that marks the set's folder.
      read: (folder, annotation file) -> pairs of picture and caption.
      source: where users get it.
      whole_images: how many pictures the whole set has, as published; None if that is not known.
      whole_texts: how many captions, likewise.
      elsewhere: other places of that file; the first that is there counts.
      beside: patterns of other files that must be there too.
      several: whether more files than one may match; `read` gets the first.
      fits: whether a file that has the name is the set's, as it seems; where names say little, `find` asks.
    """

    name: str
    annotations: str
    read: Callable[[Path, Path], Iterator[Pair]]
    source: str
    whole_images: int | None = None
    whole_texts: int | None = None
    elsewhere: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    several: bool = False
    fits: Callable[[Path], bool] = lambda _: True

    @property
    def marker(self) -> str:
        """What a folder must hold, for a message."""
        return " and ".join([" or ".join([self.annotations, *self.elsewhere]), *self.beside])

    def find(self, folder: Path) -> Path | None:
        """The annotation file in `folder`, or None."""
        found = self._named(folder)
        return found if found and self.fits(found) else None

    def _named(self, folder: Path) -> Path | None:
        found = self._candidates(folder)
        return found[0] if len(found) == 1 or (found and self.several) else None

    def _candidates(self, folder: Path) -> list[Path]:
        if not all(next(folder.glob(pattern), None) for pattern in self.beside):
            return []
        for pattern in (self.annotations, *self.elsewhere):
            if found := sorted(path for path in folder.glob(pattern) if not is_hidden(path.name)):
                return found
        return []

    def load(self, folder: str | Path) -> RetrievalData:
        """Reads the annotations; pictures are not opened.

        Raises:
          DatasetError: if the folder or a file in it is not as the set has them.
        """
        folder = expand(folder)
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; it must hold {self.name}'s {self.marker}")
        annotations = self._named(folder)
        if annotations is None:
            count = len(self._candidates(folder))
            needs = self.marker if self.several or self.beside else f"exactly one {self.marker}"
            raise DatasetError(f"{folder}: {self.name} needs {needs} there, found {count}")
        index: dict[Picture, int] = {}
        texts, image_of_text = [], []
        for path, text in self.read(folder, annotations):
            if fault := fault_of(text):
                raise DatasetError(f"{annotations}: a caption of {path.name} has {fault}; mend it, or take it out")
            texts.append(text)
            image_of_text.append(index.setdefault(path, len(index)))
        if not texts:
            raise DatasetError(f"{annotations}: holds no captions")
        return RetrievalData(list(index), texts, np.array(image_of_text))
