"""Retrieval sets as users have them on disk: one table row and one small reader each. Imports no JAX."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from flair_jax.data.captions import fault_of, rejoin
from flair_jax.data.names import is_hidden
from flair_jax.data.sets.records import captions, field, read_json, rows
from flair_jax.errors import DatasetError
from flair_jax.files import absolute, expand

Pair = tuple[Path, str]
_Set = TypeVar("_Set")


@dataclasses.dataclass(frozen=True)
class RetrievalData:
    """Pictures and captions to match.

    Attributes:
      images: paths of I pictures, each once.
      texts: T captions.
      image_of_text: int64 [T], the index of each caption's picture.
    """

    images: list[Path]
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
    """

    name: str
    annotations: str
    read: Callable[[Path, Path], Iterator[Pair]]
    source: str
    whole_images: int | None = None
    whole_texts: int | None = None

    def find(self, folder: Path) -> Path | None:
        """The annotation file in `folder`, or None."""
        found = self._candidates(folder)
        return found[0] if len(found) == 1 else None

    def _candidates(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.glob(self.annotations) if not is_hidden(path.name))

    def load(self, folder: str | Path) -> RetrievalData:
        """Reads the annotations; pictures are not opened.

        Raises:
          DatasetError: if the folder or a file in it is not as the set has them.
        """
        folder = expand(folder)
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; --data-dir must hold {self.name}'s {self.annotations}")
        annotations = self.find(folder)
        if annotations is None:
            count = len(self._candidates(folder))
            raise DatasetError(f"{folder}: {self.name} needs exactly one {self.annotations} there, found {count}")
        index: dict[Path, int] = {}
        texts, image_of_text = [], []
        for path, text in self.read(folder, annotations):
            if fault := fault_of(text):
                raise DatasetError(f"{annotations}: a caption of {path.name} has {fault}; mend it, or take it out")
            texts.append(text)
            image_of_text.append(index.setdefault(path, len(index)))
        if not texts:
            raise DatasetError(f"{annotations}: holds no captions")
        return RetrievalData(list(index), texts, np.array(image_of_text))


def read_coco(folder: Path, annotations: Path, *, images: str) -> Iterator[Pair]:
    """Pairs of COCO's caption files; `images` is the folder of the pictures in `images/`."""
    data = read_json(annotations)
    files = {}
    for image, where in rows(field(data, "images", list, str(annotations)), annotations):
        files[field(image, "id", int, where)] = folder / "images" / images / field(image, "file_name", str, where)
    for caption, where in rows(field(data, "annotations", list, str(annotations)), annotations):
        image_id = field(caption, "image_id", int, where)
        if image_id not in files:
            raise DatasetError(f"{where}: image_id {image_id} is not among the images")
        yield files[image_id], field(caption, "caption", str, where)


def read_flickr(folder: Path, annotations: Path) -> Iterator[Pair]:
    """Pairs of the files of ALBEF and BLIP, whose paths start at the folder's parent."""
    for record, where in rows(read_json(annotations), annotations):
        image = field(record, "image", str, where)
        path = absolute(folder).parent / image
        if not path.exists():  # the folder was renamed: the pictures stand in it all the same
            path = folder / Path(image).name
        for caption in captions(record, "caption", where):
            yield path, caption


def _read_annotated(folder: Path, annotations: Path, *, images: str) -> Iterator[Pair]:
    for record, where in rows(field(read_json(annotations), "annotations", list, str(annotations)), annotations):
        yield folder / images / field(record, "image", str, where), field(record, "caption", str, where)


def _read_dci(folder: Path, splits: Path) -> Iterator[Pair]:
    root = folder / "densely_captioned_images"
    for split, files in field({"splits": read_json(splits)}, "splits", dict, str(splits)).items():
        for file, where in rows(files, splits):
            if not isinstance(file, str):
                raise DatasetError(f"{where} of split {split}: expected a file name")
            path = root / "annotations" / file
            record = read_json(path)
            short, extra = (field(record, name, str, str(path)) for name in ("short_caption", "extra_caption"))
            yield root / "photos" / field(record, "image", str, str(path)), rejoin(f"{short}\n{extra}")


def _read_sharegpt4v(folder: Path, annotations: Path, *, limit: int) -> Iterator[Pair]:
    records = read_json(annotations)
    for record, where in list(rows(records, annotations))[:limit]:
        answer = field(field(record, "conversations", list, where), 1, dict, f"{where}: conversations")
        image = field(record, "image", str, where).replace("/images", "")
        yield folder / image, rejoin(field(answer, "value", str, f"{where}: conversations[1]"))


def _read_folder(folder: Path, lines: Path) -> Iterator[Pair]:
    with lines.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{lines}, line {number}"
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{where}: not JSON in UTF-8 ({error})") from None
            name = "captions" if isinstance(record, dict) and "captions" in record else "caption"
            for caption in captions(record, name, where):
                yield folder / field(record, "image", str, where), caption


RETRIEVAL_SETS: dict[str, RetrievalSet] = {
    entry.name: entry
    for entry in (
        RetrievalSet(
            "coco",
            "annotations/captions_val2017.json",
            partial(read_coco, images="val2017"),
            "cocodataset.org",
            5_000,
            25_014,
        ),
        RetrievalSet(
            "flickr30k-val",
            "flickr30k_val.json",
            read_flickr,
            "shannon.cs.illinois.edu/DenotationGraph",
            1_014,
            5_070,
        ),
        RetrievalSet(
            "flickr30k-test",
            "flickr30k_test.json",
            read_flickr,
            "shannon.cs.illinois.edu/DenotationGraph",
            1_000,
            5_000,
        ),
        RetrievalSet(
            "docci-fg",
            "annotations/test_annotations.json",
            partial(_read_annotated, images="images"),
            "google.github.io/docci",
        ),
        RetrievalSet(
            "iiw-fg", "test_annotations.json", partial(_read_annotated, images="."), "github.com/google/imageinwords"
        ),
        RetrievalSet(
            "urban-1k",
            "annotations/annotations.json",
            partial(_read_annotated, images="images"),
            "github.com/beichenzbc/Long-CLIP",
            1_000,
            1_000,
        ),
        RetrievalSet(
            "dci",
            "densely_captioned_images/splits.json",
            _read_dci,
            "github.com/facebookresearch/DCI",
            7_805,
            7_805,
        ),
        RetrievalSet(
            "sharegpt4v-1k",
            "share4v_sam_10k.json",
            partial(_read_sharegpt4v, limit=1_000),
            "sharegpt4v.github.io",
            1_000,
            1_000,
        ),
        RetrievalSet(
            "sharegpt4v-10k",
            "share4v_sam_10k.json",
            partial(_read_sharegpt4v, limit=10_000),
            "sharegpt4v.github.io",
            10_000,
            10_000,
        ),
        RetrievalSet("folder", "*.jsonl", _read_folder, "your own pictures"),
    )
}


def find_retrieval_set(name: str) -> RetrievalSet:
    """The set of that name.

    Raises:
      DatasetError: if there is none; the message names the closest.
    """
    return find_row(name, RETRIEVAL_SETS)


def find_row(name: str, sets: Mapping[str, _Set]) -> _Set:
    """The row of a table of sets.

    Raises:
      DatasetError: if there is none of that name; the message names the closest.
    """
    if name not in sets:
        close = difflib.get_close_matches(re.sub(r"[_\s]+", "-", name.lower()), sets, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(sets)}"
        raise DatasetError(f"dataset {name}: no such set; {hint}")
    return sets[name]
