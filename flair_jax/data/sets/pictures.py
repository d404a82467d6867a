"""Training sets as people have them for evaluation: a folder of pictures and one annotation file. Imports no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from flair_jax.buckets import is_remote
from flair_jax.data.captions import split_sentences
from flair_jax.data.formats import read_file
from flair_jax.data.sets.records import field, read_json, rows
from flair_jax.data.sets.retrieval import COCO_2014, RETRIEVAL_SETS
from flair_jax.data.sets.retrieval_data import Pair, RetrievalSet
from flair_jax.data.sets.retrieval_readers import read_coco, read_docci, read_flickr, read_folder, read_karpathy
from flair_jax.data.sources import Record
from flair_jax.errors import DatasetError, ImageError
from flair_jax.files import expand


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """One set.

    Attributes:
      pairs: its files, and how pairs of picture and caption are read from them.
      split: whether a caption is split into sentences, as long ones are; otherwise each is one.
    """

    pairs: RetrievalSet
    split: bool = False


def _read_karpathy(folder: Path, annotations: Path) -> Iterator[Pair]:
    """Pairs of the two splits of COCO that are trained on: `restval` is what val2014 has beside val and test."""
    for split in ("train", "restval"):
        yield from read_karpathy(folder, annotations, split=split, places=COCO_2014)


def _read_sharegpt4v(folder: Path, annotations: Path, *, skip: int) -> Iterator[Pair]:
    """Pairs of ShareGPT4V's files: the answer in `conversations`, and `image`, a path below the folder.

    Fields and folders are those of ShareGPT4V's docs/Data.md and of Long-CLIP's train/sharegpt4v.py.
    """
    for record, where in list(rows(read_json(annotations), annotations))[skip:]:
        answer = field(field(record, "conversations", list, where), 1, dict, f"{where}: conversations")
        yield folder / field(record, "image", str, where), field(answer, "value", str, f"{where}: conversations[1]")


PICTURE_SETS: dict[str, PictureSet] = {
    entry.pairs.name: entry
    for entry in (
        PictureSet(
            RetrievalSet(
                "coco-train",
                "annotations/captions_train2017.json",
                partial(read_coco, images="train2017"),
                "cocodataset.org",
            )
        ),
        PictureSet(
            dataclasses.replace(
                RETRIEVAL_SETS["coco-karpathy-test"],
                name="coco-karpathy-train",
                read=_read_karpathy,
                whole_images=None,
                whole_texts=None,
            )
        ),
        PictureSet(
            RetrievalSet(
                "flickr30k-train", "flickr30k_train.json", read_flickr, "shannon.cs.illinois.edu/DenotationGraph"
            )
        ),
        PictureSet(
            RetrievalSet(
                "docci-train",
                "docci_descriptions.jsonlines",
                partial(read_docci, split="train"),
                "google.github.io/docci",
            ),
            split=True,
        ),
        PictureSet(
            RetrievalSet(
                "sharegpt4v",
                "sharegpt4v_instruct_gpt4-vision_cap100k.json",
                partial(_read_sharegpt4v, skip=0),
                "sharegpt4v.github.io",
            ),
            split=True,
        ),
        PictureSet(
            RetrievalSet(
                "sharegpt4v-pt",
                "share-captioner_coco_lcs_sam_1246k_1107.json",
                # Long-CLIP tests on the first 1,000 records and trains on the others; others test on more of them.
                partial(_read_sharegpt4v, skip=10_000),
                "sharegpt4v.github.io",
            ),
            split=True,
        ),
        PictureSet(dataclasses.replace(RETRIEVAL_SETS["folder"], read=partial(read_folder, may_be_empty=True))),
    )
}


def is_pictures(name: str, folder: str | Path) -> bool:
    """Whether a data set's name is a row of `PICTURE_SETS`, whose files are in `folder`.

    It is none in a bucket, or where TFDS has prepared a set of that name.
    """
    if name not in PICTURE_SETS or is_remote(folder):
        return False
    return not any(any(expand(folder).glob(f"{name}/{levels}/dataset_info.json")) for levels in ("*", "*/*"))


class PictureSource:
    """A row of `PICTURE_SETS` as training samples: each picture once, with all its captions."""

    def __init__(self, name: str, folder: str | Path) -> None:
        """Reads the annotations; pictures are read when they are asked for.

        Args:
          name: in `PICTURE_SETS`.
          folder: the set's, as `flair-jax evaluate --data-dir` takes it.

        Raises:
          DatasetError: if the folder, or a file in it, is not as the set has them.
        """
        entry = PICTURE_SETS[name]
        data = entry.pairs.load(expand(folder))
        self._name, self._split, self._pictures = name, entry.split, [str(path) for path in data.images]
        self._captions: list[list[str]] = [[] for _ in data.images]
        for number, text in zip(data.image_of_text.tolist(), data.texts, strict=True):
            self._captions[number].append(text)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Record:
        path = self._pictures[index]
        sentences = [sentence for text in self._captions[index] for sentence in self._sentences(text)]
        try:
            return Record(read_file(path), sentences)
        except FileNotFoundError:
            raise ImageError("no such picture", "picture is missing") from None
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror or error}") from None

    def _sentences(self, text: str) -> list[str]:
        if self._split:
            return split_sentences(text)
        return [text.strip()] if text.strip() else []

    def empty_captions(self) -> int:
        """How many captions have no words, and are passed over since their pictures have others."""
        listed = [[not self._sentences(text) for text in captions] for captions in self._captions]
        return sum(sum(empty) for empty in listed if not all(empty))

    def where(self, index: int) -> str:
        """The picture's path."""
        return f"{self._name}: {self._pictures[index]}"
