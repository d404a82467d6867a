"""One picture, true and false captions: SugarCrepe's form, and SugarCrepe++'s. Imports no JAX.

Hsieh et al., "SugarCrepe", NeurIPS 2023: files and fields are those of `main_eval.py` and `data/` of
github.com/RAIVNLab/sugar-crepe, a JSON object of records for each split. Dumpala et al., "SUGARCREPE++", NeurIPS 2024:
those of `data/` of github.com/Sri-Harsha/scpp, a JSON list of records, with a second true caption.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

from flair_jax.data.sets.choice_data import NO_PICTURE, Box, Question, View, find_picture
from flair_jax.data.sets.records import captions, field, read_json, rows
from flair_jax.errors import DatasetError


def read_captions(
    folder: Path,
    marker: Path,
    _: collections.Counter[str],
    *,
    pictures: tuple[str, ...],
    splits: tuple[str, ...] = (),
    true: tuple[str, ...] = ("caption",),
) -> Iterator[Question]:
    """Questions of several files, whose names are the kinds of the questions.

    Args:
      folder: the set's.
      marker: one of the files; the others lie beside it.
      pictures: where `filename` may start from, in `folder`.
      splits: the files' names without ending; all beside `marker` if not given.
      true: fields with captions that are true; `negative_caption` has one that is false, or a list of these.

    Raises:
      DatasetError: if a file is missing, or is not in this form.
    """
    for split in splits or sorted(path.stem for path in marker.parent.glob("*.json") if path.name[0] != "."):
        file = marker.parent / f"{split}.json"
        records = read_json(file)
        for record, where in rows(list(records.values()) if isinstance(records, dict) else records, file):
            image = find_picture(folder, pictures, field(record, "filename", str, where))
            right = [field(record, name, str, where) for name in true]
            wrong = captions(record, "negative_caption", where)
            owners = [0] * len(right) + [NO_PICTURE] * len(wrong)
            box = read_box(record, "bbox", where) if "bbox" in record else None
            yield Question([View(image, box)], [*right, *wrong], owners, split)


def read_box(record: object, name: str, where: str) -> Box:
    """record[name] as a box in COCO's form, [left, top, width, height] in pixels; `where` as in `field`.

    Raises:
      DatasetError: if it is not one.
    """
    values = field(record, name, list, where)
    return checked_box(values, f"{where}: `{name}`")


def checked_box(values: list[object], where: str) -> Box:
    """Four numbers as a box with an area.

    Raises:
      DatasetError: if they are not.
    """
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and abs(value) < 1e9]
    if len(values) != 4 or len(numbers) != 4 or numbers[2] <= 0 or numbers[3] <= 0:
        raise DatasetError(f"{where} must be [left, top, width, height] in pixels, with an area, found {values}")
    left, top, width, height = numbers
    return left, top, width, height
