"""Retrieval sets as users have them on disk: one table row each. Imports no JAX."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

from flair_jax.data.sets.retrieval_data import RetrievalSet
from flair_jax.data.sets.retrieval_parquet import PARQUET, has_pairs, read_parquet
from flair_jax.data.sets.retrieval_readers import (
    has_captions,
    read_annotated,
    read_coco,
    read_dci,
    read_dci_summaries,
    read_docci,
    read_flickr,
    read_folder,
    read_iiw,
    read_karpathy,
    read_sharegpt4v,
)
from flair_jax.errors import DatasetError

_Set = TypeVar("_Set")

# Folders that may hold COCO's train2014 and val2014.
COCO_2014 = (".", "images", "coco", "coco2014", "coco/images")
_KARPATHY = "cs.stanford.edu/people/karpathy/deepimagesent: caption_datasets.zip"
# Folders of ImageInWords' files (the repository has had both spellings), and of their pictures as the FLAIR release has
# them.
_IIW_PARTS = {"DOCCI_T[Ee][Ss][Tt]": "docci", "IIW-400": "docci_aar", "DCI_T[Ee][Ss][Tt]": "dci"}


def _karpathy_places(file: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{file}" for folder in ("karpathy", "caption_datasets", "annotations"))


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
            partial(read_annotated, images="images"),
            "google.github.io/docci",
        ),
        RetrievalSet(
            "iiw-fg", "test_annotations.json", partial(read_annotated, images="."), "github.com/google/imageinwords"
        ),
        RetrievalSet(
            "urban-1k",
            "annotations/annotations.json",
            partial(read_annotated, images="images"),
            "github.com/beichenzbc/Long-CLIP",
            1_000,
            1_000,
        ),
        RetrievalSet(
            "dci",
            "densely_captioned_images/splits.json",
            read_dci,
            "github.com/facebookresearch/DCI",
            7_805,
            7_805,
        ),
        RetrievalSet(
            "sharegpt4v-1k",
            "share4v_sam_10k.json",
            partial(read_sharegpt4v, limit=1_000),
            "sharegpt4v.github.io",
            1_000,
            1_000,
        ),
        RetrievalSet(
            "sharegpt4v-10k",
            "share4v_sam_10k.json",
            partial(read_sharegpt4v, limit=10_000),
            "sharegpt4v.github.io",
            10_000,
            10_000,
        ),
        *(
            RetrievalSet(
                f"coco-karpathy-{split}",
                "dataset_coco.json",
                partial(read_karpathy, split=split, places=COCO_2014),
                _KARPATHY,
                5_000,
                elsewhere=_karpathy_places("dataset_coco.json"),
            )
            for split in ("test", "val")
        ),
        *(
            RetrievalSet(
                f"flickr30k-karpathy-{split}",
                "dataset_flickr30k.json",
                partial(
                    read_karpathy,
                    split=split,
                    places=("flickr30k-images", "flickr30k_images", "images", "Images", "flickr30k/images", "."),
                ),
                _KARPATHY,
                images,
                5 * images,
                _karpathy_places("dataset_flickr30k.json"),
            )
            for split, images in (("test", 1_000), ("val", 1_014))
        ),
        RetrievalSet(
            "docci",
            "docci_descriptions.jsonlines",
            partial(read_docci, split="test"),
            "google.github.io/docci",
            5_000,
            5_000,
        ),
        RetrievalSet(
            "iiw",
            "IIW-400/data.jsonl",
            partial(read_iiw, parts=_IIW_PARTS),
            "github.com/google/imageinwords",
            612,
            612,
            beside=tuple(f"{part}/data.jsonl" for part in _IIW_PARTS if "*" in part or "[" in part),
        ),
        RetrievalSet(
            "iiw-400",
            "IIW-400/data.jsonl",
            partial(read_iiw, parts={"IIW-400": "docci_aar"}),
            "github.com/google/imageinwords",
            400,
            400,
        ),
        RetrievalSet(
            "dci-summaries",
            "densely_captioned_images/splits.json",
            read_dci_summaries,
            "github.com/facebookresearch/DCI",
            7_805,
            beside=("densely_captioned_images/complete/*.json",),
        ),
        RetrievalSet(
            "parquet",
            "*.parquet",
            read_parquet,
            "huggingface.co/datasets",
            elsewhere=PARQUET,
            several=True,
            fits=has_pairs,
        ),
        RetrievalSet("folder", "*.jsonl", read_folder, "your own pictures", fits=has_captions),
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
