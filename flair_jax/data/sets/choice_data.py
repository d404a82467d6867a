"""Pictures, captions, and which of them belong together, for a model to choose. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from flair_jax.data.captions import fault_of
from flair_jax.data.image import open_rgb
from flair_jax.errors import DatasetError, ImageError, printable

NO_PICTURE = -1  # the owner of a caption that is true of no picture
Box = tuple[float, float, float, float]  # left, top, width, height in pixels


class View(NamedTuple):
    """A picture, or the part of it in a box; `size` is the width and height that were annotated, if they were."""

    path: Path
    box: Box | None = None
    size: tuple[int, int] | None = None


class Question(NamedTuple):
    """Captions to match with pictures.

    Attributes:
      views: one or more.
      captions: two or more.
      owners: for each caption the number of the view that it is true of, from 0, or `NO_PICTURE`.
      kind: what the question is about, in the set's own words; may be empty.
    """

    views: Sequence[View]
    captions: Sequence[str]
    owners: Sequence[int]
    kind: str = ""


class Row(NamedTuple):
    """One view with the captions of one question."""

    question: int
    view: int  # its number in the question
    texts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ChoiceData:
    """Questions, by the pictures that they are about.

    Attributes:
      views: V of them, each once.
      rows: the rows of each view; at least one.
      texts: the captions, each once.
      owners: of each question; see `Question`.
      kinds: likewise.
      left_out: how many of what the set has besides, such as questions that are not asked.
    """

    views: list[View]
    rows: list[list[Row]]
    texts: list[str]
    owners: list[tuple[int, ...]]
    kinds: list[str]
    left_out: dict[str, int]

    @property
    def boxed(self) -> bool:
        """Whether every view is a box."""
        return all(view.box is not None for view in self.views)

    def digest(self) -> str:
        """A hash of paths, boxes, captions and answers."""
        listing = [[str(view.path), view.box, view.size] for view in self.views]
        return hashlib.sha256(
            json.dumps([listing, self.rows, self.texts, self.owners, self.kinds]).encode()
        ).hexdigest()

    def read(self, number: int) -> tuple[Image.Image, Image.Image, Box]:
        """A view's picture.

        Returns:
          The view in RGB, the whole picture, and where the view is in it, in pixels.

        Raises:
          ImageError: if the picture cannot be read or is not as large as annotated, or no part of it is in the box.
        """
        path, box, size = self.views[number]
        picture = open_rgb(path)
        if size not in (None, picture.size):
            found = f"{printable(path)}: is {picture.width}x{picture.height} pixels"
            raise ImageError(f"{found}, and {size[0]}x{size[1]} were annotated", "annotation is broken")
        if box is None:
            return picture, picture, (0.0, 0.0, float(picture.width), float(picture.height))
        left, top, width, height = box
        # Whole pixels, as FG-OVD's own evaluation of CLIP cuts its boxes out.
        sides = (
            max(math.floor(left), 0),
            max(math.floor(top), 0),
            min(math.ceil(left + width), picture.width),
            min(math.ceil(top + height), picture.height),
        )
        if sides[0] >= sides[2] or sides[1] >= sides[3]:
            raise ImageError(
                f"{printable(path)}: no part of its {picture.width}x{picture.height} pixels is in the box {list(box)}",
                "annotation is broken",
            )
        first, upper, last, lower = sides
        return picture.crop(sides), picture, (float(first), float(upper), float(last - first), float(lower - upper))


def gather(questions: Iterable[Question], left_out: collections.Counter[str], marker: Path) -> ChoiceData:
    """The questions of a reader, by views.

    Args:
      questions: of the reader.
      left_out: which it fills, while it is read, with what it passes over.
      marker: the set's file, for errors.

    Raises:
      DatasetError: of the reader; or if there are no questions, or a caption cannot be read as text or is empty.
    """
    views: dict[View, int] = {}
    texts: dict[str, int] = {}
    data = ChoiceData([], [], [], [], [], {})
    for question in questions:
        for caption in question.captions:
            fault = fault_of(caption) or ("" if caption.strip() else "no text")
            if fault:
                name = question.views[0].path.name
                raise DatasetError(f"{marker}: a caption of {name} has {fault}; mend it, or take it out")
        captions, owners = _without_repeats(question, left_out)
        if len(set(owners)) < 2:
            left_out["questions without a false caption"] += 1
            continue
        columns = tuple(texts.setdefault(caption, len(texts)) for caption in captions)
        for which, view in enumerate(question.views):
            place = views.setdefault(view, len(views))
            if place == len(data.rows):
                data.rows.append([])
            data.rows[place].append(Row(len(data.owners), which, columns))
        data.owners.append(owners)
        data.kinds.append(question.kind)
    if not data.owners:
        reasons = "".join(f"; left out: {reason} ({count:,})" for reason, count in left_out.items())
        raise DatasetError(f"{marker}: holds no questions{reasons}")
    return dataclasses.replace(data, views=list(views), texts=list(texts), left_out=dict(left_out))


def _without_repeats(question: Question, left_out: collections.Counter[str]) -> tuple[list[str], tuple[int, ...]]:
    """The captions and their owners without false captions that are, word for word, true: nothing can tell them."""
    pairs = list(zip(question.captions, question.owners, strict=True))
    true = {caption for caption, owner in pairs if owner != NO_PICTURE}
    kept = [(caption, owner) for caption, owner in pairs if owner != NO_PICTURE or caption not in true]
    if len(kept) < len(pairs):
        left_out["false captions that are word for word a true one"] += len(pairs) - len(kept)
    return [caption for caption, _ in kept], tuple(owner for _, owner in kept)


def find_picture(folder: Path, roots: Sequence[str], name: str) -> Path:
    """A picture's path, its name starting from one of `roots` in `folder`.

    The first where it lies; if it is missing, the first where its folder is.
    """
    paths = [folder / root / name for root in roots]
    return next(
        (path for path in paths if path.is_file()), next((path for path in paths if path.parent.is_dir()), paths[-1])
    )
