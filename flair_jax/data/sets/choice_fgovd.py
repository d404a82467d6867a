"""FG-OVD: a box in a picture, its caption, and ten captions with attributes altered. Imports no JAX.

Bianchi et al., "The devil is in the fine-grained details", CVPR 2024; `benchmarks/` of github.com/lorebianchi98/FG-OVD.
The files are in COCO's form: `annotations` have a `bbox`, the `category_id` of the true caption and the
`neg_category_ids` of the altered ones, whose texts are the `name`s of `categories`. As in its `evaluation/ranks.py`,
boxes with fewer than ten altered captions are left out.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

from flair_jax.data.sets.choice_captions import read_box
from flair_jax.data.sets.choice_data import NO_PICTURE, Question, View, find_picture
from flair_jax.data.sets.records import field, read_json, rows
from flair_jax.errors import DatasetError

_ALTERED = 10
# What `file_name`, such as val2017/000000000139.jpg, may start from.
_PICTURES = (".", "coco", "images", "coco/images")


def read_fgovd(folder: Path, marker: Path, left_out: collections.Counter[str]) -> Iterator[Question]:
    """A question for each box.

    Args:
      folder: the set's, with the pictures.
      marker: the file.
      left_out: gets the boxes with fewer than ten altered captions.

    Raises:
      DatasetError: if the file is not in this form.
    """
    data, name = read_json(marker), str(marker)
    texts = {
        number: field(category, "name", str, where)
        for number, (category, where) in _by_id(field(data, "categories", list, name), marker).items()
    }
    images = _by_id(field(data, "images", list, name), marker)
    for annotation, where in rows(field(data, "annotations", list, name), marker):
        altered = field(annotation, "neg_category_ids", list, where)
        if len(altered) < _ALTERED:
            left_out[f"boxes with fewer than {_ALTERED} altered captions"] += 1
            continue
        number = field(annotation, "image_id", int, where)
        if number not in images:
            raise DatasetError(f"{where}: no image has the id {number}")
        chosen = [field(annotation, "category_id", int, where), *altered[:_ALTERED]]
        unknown = [each for each in chosen if not isinstance(each, int) or each not in texts]
        if unknown:
            raise DatasetError(f"{where}: no category has the id {unknown[0]}")
        owners = [0] + [NO_PICTURE] * _ALTERED
        box = read_box(annotation, "bbox", where)
        image, at = images[number]
        path = find_picture(folder, _PICTURES, field(image, "file_name", str, at))
        size = field(image, "width", int, at), field(image, "height", int, at)
        yield Question([View(path, box, size)], [texts[each] for each in chosen], owners)


def _by_id(records: list[object], marker: Path) -> dict[int, tuple[object, str]]:
    """Records, each with its place, by their `id`."""
    found = dict[int, tuple[object, str]]()
    for record, where in rows(records, marker):
        number = field(record, "id", int, where)
        if number in found:
            raise DatasetError(f"{where}: its id {number} is another's too")
        found[number] = record, where
    return found
