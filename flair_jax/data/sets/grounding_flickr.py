"""Flickr30k Entities: phrases of captions, and the boxes of what they name. Imports no JAX.

Plummer et al., "Flickr30k Entities", IJCV 2017; the files' forms are those of its README and of
`flickr30k_entities_utils.py` in github.com/BryanPlummer/flickr30k_entities.
"""

from __future__ import annotations

import collections
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from flair_jax.data.sets.grounding_data import Phrase
from flair_jax.data.sets.grounding_regions import Box, Region
from flair_jax.errors import DatasetError, printable

_START = "[/EN#"
_NOT_VISUAL = "0"
# Where the pictures lie beside the annotations; the first that exists counts.
_PICTURES = ("flickr30k-images", "flickr30k_images", "images", ".")


def read_entities(folder: Path, split: Path, left_out: collections.Counter[str]) -> Iterator[Phrase]:
    """Every phrase of every caption that has a box, in the order of the captions.

    Args:
      folder: with `Sentences/NAME.txt`, `Annotations/NAME.xml`, and the pictures.
      split: a list of names.
      left_out: gets the phrases without a box, by reason.

    Raises:
      DatasetError: if a file is missing or damaged.
    """
    pictures = next(folder / name for name in _PICTURES if (folder / name).is_dir())
    for name in dict.fromkeys(_read_text(split).split()):
        annotation = folder / "Annotations" / f"{name}.xml"
        size, boxes = _read_boxes(annotation)
        sentences = folder / "Sentences" / f"{name}.txt"
        for number, sentence in enumerate(_read_text(sentences).split("\n"), start=1):
            for chain, kinds, words in _phrases(sentence, f"{sentences}, line {number}"):
                if chain == _NOT_VISUAL:
                    left_out["nothing that is seen"] += 1
                elif not words:
                    left_out["no words"] += 1
                elif chain not in boxes:
                    left_out["no box: the whole scene, or not in the picture"] += 1
                else:
                    yield Phrase(pictures / f"{name}.jpg", size, words, boxes[chain], kinds)


def _phrases(sentence: str, where: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Chain, types and words of each [/EN#CHAIN/TYPE/... WORD WORD ...]; the last word is the first that ends in ]."""
    words: list[str] | None = None
    for token in sentence.split():
        if words is None:
            if token.startswith(_START):
                chain, *kinds = token.removeprefix(_START).split("/")
                words = []
        else:
            words.append(token.removesuffix("]"))
            if token.endswith("]"):
                yield chain, tuple(kinds), " ".join(filter(None, words))
                words = None
    if words is not None:
        raise DatasetError(f"{where}: ends within a phrase")


def _read_boxes(path: Path) -> tuple[tuple[int, int], dict[str, Region]]:
    """The picture's width and height, and the boxes of each chain that has any."""
    data = _read_bytes(path)
    if b"<!" in data.replace(b"<!--", b""):
        raise DatasetError(f"{path}: declares entities, which no annotation of the set does")
    try:
        root = ET.fromstring(data)  # noqa: S314, it has no entities
        size = root.find("size")
        width, height = _number(size, "width"), _number(size, "height")
        boxes = collections.defaultdict[str, list[Box]](list)
        for item in root.findall("object"):
            if (box := item.find("bndbox")) is None:
                continue  # it is the scene, or not to be seen
            left, top, right, bottom = (_number(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
            if left > right or top > bottom:
                raise ValueError(f"a box from {left}, {top} to {right}, {bottom}")
            for name in item.findall("name"):
                # Numbers of pixels from 1, as PASCAL VOC has them; the last one is in the box.
                boxes[(name.text or "").strip()].append((left - 1, top - 1, right, bottom))
    except (ET.ParseError, ValueError) as error:
        raise DatasetError(f"{path}: is not an annotation of Flickr30k Entities ({printable(error)})") from None
    return (width, height), {chain: Region(tuple(each)) for chain, each in boxes.items()}


def _number(element: ET.Element | None, name: str) -> int:
    text = element.findtext(name) if element is not None else None
    if text is None:
        raise ValueError(f"`{name}` is missing")
    return int(text)


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: cannot be read as text in UTF-8 ({error})") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
