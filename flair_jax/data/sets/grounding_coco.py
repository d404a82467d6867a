"""Referring expressions in forms of COCO's JSON, as others publish RefCOCO, RefCOCO+ and RefCOCOg. Imports no JAX.

The sets' first release (github.com/lichengunc/refer) has its expressions in a pickle, which is not opened here. The
fields are named where they are read; those of COCO itself are on cocodataset.org, "Data format".
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flair_jax.data.sets.grounding_data import Phrase
from flair_jax.data.sets.grounding_regions import Region, read_region
from flair_jax.data.sets.records import captions, field, read_json, rows
from flair_jax.errors import DatasetError

# Where COCO's pictures of 2014 lie, from the folder of the set; the first that exists counts.
_PICTURES = (
    *("train2014", "coco/train2014", "coco2014/train2014", "images/train2014"),
    *("images/mscoco/train2014", "images/mscoco/images/train2014", "images", "."),
)


def read_coco_form(
    folder: Path, marker: Path, _: collections.Counter[str], *, masks: tuple[str, ...] = ()
) -> Iterator[Phrase]:
    """COCO's `images` with a `caption` or `expressions`, each for all `annotations` with the image's id together.

    MDETR's finetune_*.json have one image for each expression, with `caption`, and one annotation each, without an
    outline but with `original_id`, the annotation's id in COCO (github.com/ashkamath/mdetr,
    scripts/fine-tuning/refexp_coco_format.py). UNINEXT's instances_*.json have one for each object, with `expressions`
    (github.com/MasterBin-IIAU/UNINEXT, conversion/convert_ref2coco.py).

    Args:
      folder: the set's.
      marker: the file.
      masks: files of COCO's annotations, by `original_id`, from `folder`; the first that exists gives the outlines.

    Raises:
      DatasetError: if a file is not in this form.
    """
    data, name = read_json(marker), str(marker)
    annotations = collections.defaultdict[int, list[tuple[Any, str]]](list)
    source = next((folder / file for file in masks if (folder / file).is_file()), None)
    outlines = _outlines(source) if source else {}
    for annotation, where in rows(field(data, "annotations", list, name), marker):
        known = annotation
        if source and not (isinstance(annotation, dict) and annotation.get("segmentation")):
            original = field(annotation, "original_id", int, where)
            if original not in outlines:
                raise DatasetError(f"{where}: its original_id {original} is not in {source}; is that COCO's of 2014?")
            known = outlines[original]
        annotations[field(annotation, "image_id", int, where)].append((known, where))
    pictures = _pictures(folder)
    regions: dict[str, Region] = {}  # an object's are one, which is decoded once
    for image, where in rows(field(data, "images", list, name), marker):
        number = field(image, "id", int, where)
        if not (known_as := annotations.pop(number, [])):
            raise DatasetError(f"{where}: no annotation has image_id {number}, or an image before has it")
        size = field(image, "width", int, where), field(image, "height", int, where)
        region = read_region(known_as)
        region = regions.setdefault(repr(region), region)
        path = pictures / field(image, "file_name", str, where)
        for text in captions(image, "caption" if "caption" in image else "expressions", where):
            yield Phrase(path, size, text, region)


def read_seqtr(folder: Path, marker: Path, _: collections.Counter[str], *, split: str) -> Iterator[Phrase]:
    """SeqTR's instances.json: the splits' names with lists of objects, which have `expressions` and a `mask`.

    Fields: github.com/seanzhuh/SeqTR, seqtr/datasets/pipelines/loading.py, also for the picture's name, which follows
    from `image_id`. A `mask` is as COCO's `segmentation`.

    Args:
      folder: the set's.
      marker: the file.
      split: which list.

    Raises:
      DatasetError: if the file is not in this form.
    """
    pictures = _pictures(folder)
    for record, where in rows(field(read_json(marker), split, list, str(marker)), marker):
        where = f"{where} of split {split}"
        size = field(record, "width", int, where), field(record, "height", int, where)
        region = read_region([({"segmentation": field(record, "mask", object, where)}, where)])
        path = pictures / f"COCO_train2014_{field(record, 'image_id', int, where):012}.jpg"
        for text in captions(record, "expressions", where):
            yield Phrase(path, size, text, region)


def _pictures(folder: Path) -> Path:
    return next(folder / name for name in _PICTURES if (folder / name).is_dir())


def _outlines(source: Path) -> dict[int, Any]:
    """COCO's annotations by their ids."""
    listed = field(read_json(source), "annotations", list, str(source))
    return {field(annotation, "id", int, where): annotation for annotation, where in rows(listed, source)}
