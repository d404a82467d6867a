"""Sets of captions to choose from, as users have them on disk: one table row each. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flair_jax.data.names import is_hidden
from flair_jax.data.sets.choice_aro import SYMMETRIC, read_order, read_visual_genome
from flair_jax.data.sets.choice_captions import read_captions
from flair_jax.data.sets.choice_data import ChoiceData, Question, gather
from flair_jax.data.sets.choice_fgovd import read_fgovd
from flair_jax.data.sets.choice_winoground import read_winoground
from flair_jax.errors import DatasetError
from flair_jax.files import expand

# (the set's folder, the file that marks it, a counter for what is left out) -> its questions.
Reader = Callable[[Path, Path, "collections.Counter[str]"], Iterator[Question]]


@dataclasses.dataclass(frozen=True)
class ChoiceSet:
    """One set.

    Attributes:
      name: for `--dataset`.
      markers: files, or patterns, that mark the set's folder; the first that is there counts.
      read: reads the questions.
      source: where users get it.
      without: a file beside the marker that only another set has.
      whole_questions: how many questions the whole set has, as published; None if that is not known.
      mean_without: kinds that the published mean over kinds leaves out.
      mean_from: how many questions a kind needs to count in that mean.
    """

    name: str
    markers: tuple[str, ...]
    read: Reader
    source: str
    without: str = ""
    whole_questions: int | None = None
    mean_without: frozenset[str] = frozenset()
    mean_from: int = 1

    def find(self, folder: Path) -> Path | None:
        """The file that marks the set in `folder`, or None."""
        for marker in self.markers:
            for path in sorted(folder.glob(marker)):
                if not is_hidden(path.name) and not (self.without and (path.parent / self.without).exists()):
                    return path
        return None

    def load(self, folder: str | Path) -> ChoiceData:
        """Reads the questions; pictures are not opened.

        Raises:
          DatasetError: if the folder or a file in it is not as the set has them.
        """
        folder = expand(folder)
        needed = " or ".join(self.markers)
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; it must hold {self.name}'s {needed}")
        marker = self.find(folder)
        if marker is None:
            besides = f", without {self.without} beside it" if self.without else ""
            raise DatasetError(f"{folder}: {self.name} needs {needed} there{besides}")
        left_out = collections.Counter[str]()
        return gather(self.read(folder, marker, left_out), left_out, marker)


# Where COCO's pictures of 2017 may lie, from the folder of the set.
_VAL2017 = ("val2017", "images/val2017", "coco/val2017", "coco/images/val2017", "images", ".")
_SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
_FGOVD = {"hard": "1_attributes", "medium": "2_attributes", "easy": "3_attributes", "trivial": "shuffle_negatives"}
_ARO = "github.com/mertyg/vision-language-models-are-bows"


def _beside(name: str, *folders: str) -> tuple[str, ...]:
    """A file in the set's folder, or in one of these in it."""
    return (name, *(f"{folder}/{name}" for folder in folders))


# Questions in whole sets: ARO's by `n_samples` in github.com/embeddings-benchmark/mteb, mteb/tasks/Image/
# ImageTextPairClassification; Winoground's by its README.
CHOICE_SETS: dict[str, ChoiceSet] = {
    entry.name: entry
    for entry in (
        ChoiceSet(
            "sugarcrepe",
            _beside("add_att.json", "data", "sugar-crepe/data"),
            partial(read_captions, pictures=_VAL2017, splits=_SUGARCREPE),
            "data/ of github.com/RAIVNLab/sugar-crepe, with COCO's val2017",
        ),
        ChoiceSet(
            "sugarcrepe++",
            _beside("replace_att.json", "data", "scpp/data"),
            partial(read_captions, pictures=_VAL2017, splits=_SUGARCREPE[2:], true=("caption", "caption2")),
            "data/ of github.com/Sri-Harsha/scpp, with COCO's val2017",
            without="add_att.json",
        ),
        ChoiceSet(
            "winoground",
            _beside("examples.jsonl", "data"),
            read_winoground,
            "data/ of huggingface.co/datasets/facebook/winoground, images.zip unpacked",
            whole_questions=400,
        ),
        ChoiceSet(
            "vg-relation",
            ("visual_genome_relation.json",),
            read_visual_genome,
            _ARO,
            whole_questions=23_937,
            mean_without=SYMMETRIC,
        ),
        ChoiceSet("vg-attribution", ("visual_genome_attribution.json",), read_visual_genome, _ARO, mean_from=25),
        ChoiceSet(
            "coco-order",
            ("coco_order.json",),
            partial(read_order, pictures=(".", "coco", "images")),
            f"`test_cases` of COCO_Order of {_ARO}, with COCO's val2014",
            whole_questions=25_010,
        ),
        ChoiceSet(
            "flickr30k-order",
            ("flickr30k_order.json",),
            partial(read_order, pictures=(".", "flickr30k", "images")),
            f"`test_cases` of Flickr30k_Order of {_ARO}, with Flickr30k's pictures",
            whole_questions=5_000,
        ),
        *(
            ChoiceSet(
                f"fg-ovd-{level}",
                _beside(f"{file}.json", "benchmarks"),
                read_fgovd,
                "benchmarks/ of github.com/lorebianchi98/FG-OVD, with COCO's val2017",
            )
            for level, file in _FGOVD.items()
        ),
        ChoiceSet(
            "folder", ("choices/*.json",), partial(read_captions, pictures=(".",)), "your own, in SugarCrepe's form"
        ),
    )
}
