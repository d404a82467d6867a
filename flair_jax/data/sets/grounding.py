"""Sets of phrases to find in pictures, as users have them on disk: one table row each. Imports no JAX."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flair_jax.data.sets.grounding_coco import read_coco_form, read_seqtr
from flair_jax.data.sets.grounding_data import GroundingData, Phrase, gather
from flair_jax.data.sets.grounding_flickr import read_entities
from flair_jax.errors import DatasetError
from flair_jax.files import expand

# (the set's folder, the file that marks it, a counter for phrases that are left out) -> its phrases.
Reader = Callable[[Path, Path, "collections.Counter[str]"], Iterator[Phrase]]


@dataclasses.dataclass(frozen=True)
class GroundingSet:
    """One set.

    Attributes:
      name: for `--dataset`.
      layouts: files that mark the set's folder, each with its reader; the first that is there counts.
      source: where users get it.
      whole_images: how many pictures the whole set has, as published; None if that is not known.
      beside: other files and folders that must be there too.
    """

    name: str
    layouts: tuple[tuple[str, Reader], ...]
    source: str
    whole_images: int | None = None
    beside: tuple[str, ...] = ()

    def find(self, folder: Path) -> Path | None:
        """The file that marks the set in `folder`, or None."""
        if not all((folder / name).exists() for name in self.beside):
            return None
        return next((folder / marker for marker, _ in self.layouts if (folder / marker).is_file()), None)

    def load(self, folder: str | Path) -> GroundingData:
        """Reads the annotations; pictures are not opened.

        Raises:
          DatasetError: if the folder or a file in it is not as the set has them.
          FlairError: if a package is missing that its outlines need.
        """
        folder = expand(folder)
        needed = " and ".join([" or ".join(marker for marker, _ in self.layouts), *self.beside])
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; it must hold {self.name}'s {needed}")
        found = self.find(folder)
        for marker, read in self.layouts:
            if folder / marker == found:
                left_out = collections.Counter[str]()
                return gather(read(folder, found, left_out), left_out, found)
        raise DatasetError(f"{folder}: {self.name} needs {needed} there")


# Pictures in the splits: tensorflow.org/datasets/catalog/ref_coco, "Stats for each dataset and split".
_REFERRING = (
    ("refcoco", "refcoco-unc", {"val": 1_500, "testA": 750, "testB": 750}),
    ("refcoco+", "refcocoplus-unc", {"val": 1_500, "testA": 750, "testB": 750}),
    ("refcocog", "refcocog-umd", {"val": 1_300, "test": 2_600}),
)


def _referring(name: str, published: str, split: str, images: int) -> GroundingSet:
    """A split of a set on COCO's pictures of 2014, with outlines where a file has them."""
    masks = (f"{name}/instances.json", "annotations/instances_train2014.json", "instances_train2014.json")
    mdetr = partial(read_coco_form, masks=masks)
    return GroundingSet(
        f"{name}-{split}",
        (
            (f"annotations/{published}/instances_{split}.json", read_coco_form),
            (f"annotations/{published}/instances.json", partial(read_seqtr, split=split)),
            (f"mdetr_annotations/finetune_{name}_{split}.json", mdetr),
            (f"finetune_{name}_{split}.json", mdetr),
        ),
        "annotations of github.com/seanzhuh/SeqTR or github.com/ashkamath/mdetr, COCO's train2014",
        images,
    )


GROUNDING_SETS: dict[str, GroundingSet] = {
    entry.name: entry
    for entry in (
        *(
            GroundingSet(
                f"flickr30k-entities-{split}",
                ((f"{split}.txt", read_entities),),
                "github.com/BryanPlummer/flickr30k_entities, with Flickr30k's pictures",
                1_000,
                ("Sentences", "Annotations"),
            )
            for split in ("val", "test")
        ),
        *(
            _referring(name, published, split, images)
            for name, published, splits in _REFERRING
            for split, images in splits.items()
        ),
        GroundingSet("folder", (("phrases.json", read_coco_form),), "your own pictures, in COCO's form"),
    )
}
