"""ARO: relations and attributes of two things exchanged, and captions in another order. Imports no JAX.

Yuksekgonul et al., "When and why vision-language models behave like bags-of-words", ICLR 2023; the fields are those
that `dataset_zoo/aro_datasets.py` of github.com/mertyg/vision-language-models-are-bows reads and makes.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path

from flair_jax.data.sets.choice_captions import checked_box
from flair_jax.data.sets.choice_data import NO_PICTURE, Question, View, find_picture
from flair_jax.data.sets.records import field, read_json, rows
from flair_jax.errors import DatasetError


def read_visual_genome(_: Path, marker: Path, __: collections.Counter[str]) -> Iterator[Question]:
    """`visual_genome_relation.json` and `visual_genome_attribution.json`, with the pictures in `images/` beside them.

    The picture is cut to the box around both things. Kinds are the relation's name, or the two attributes.

    Raises:
      DatasetError: if the file is not in this form.
    """
    for record, where in rows(read_json(marker), marker):
        sides = [field(record, f"bbox_{side}", object, where) for side in "xywh"]
        box = checked_box(sides, f"{where}: `bbox_x`, `bbox_y`, `bbox_w`, `bbox_h`")
        true, false = (field(record, f"{which}_caption", str, where) for which in ("true", "false"))
        if "attributes" in record:
            attributes = field(record, "attributes", list, where)
            kind = "_".join(map(str, attributes[:2]))
        else:
            kind = field(record, "relation_name", str, where)
        image = field(record, "image_path", str, where)
        yield Question([View(marker.parent / "images" / image, box)], [true, false], (0, NO_PICTURE), kind)


def read_order(
    folder: Path, marker: Path, _: collections.Counter[str], *, pictures: tuple[str, ...]
) -> Iterator[Question]:
    """A list of objects with `image` and `caption_options`, of which the first is true and four have another order.

    ARO publishes no file of these: its code draws the orders anew, with spaCy and NLTK, and keeps them in `test_cases`
    of `COCO_Order` and `Flickr30k_Order`, which is this list.

    Args:
      folder: the set's.
      marker: the file.
      pictures: where `image` may start from, in `folder`.

    Raises:
      DatasetError: if the file is not in this form.
    """
    for record, where in rows(read_json(marker), marker):
        options = field(record, "caption_options", list, where)
        if len(options) < 2 or not all(isinstance(option, str) for option in options):
            raise DatasetError(f"{where}: `caption_options` must be a list of two or more texts")
        owners = [0] + [NO_PICTURE] * (len(options) - 1)
        image = find_picture(folder, pictures, field(record, "image", str, where))
        yield Question([View(image)], options, owners)


# Relations that the mean over relations leaves out, since they hold as well with their two things exchanged or too few
# questions have them: the list `symmetric` of the release's notebook "Replicate ARO! VG-Relation, VG-Attribution".
_SYMMETRIC = """
    adjusting, attached to, between, bigger than, biting, boarding, brushing, chewing, cleaning, climbing, close to,
    coming from, coming out of, contain, crossing, dragging, draped over, drinking, drinking from, driving, driving
    down, driving on, eating from, eating in, enclosing, exiting, facing, filled with, floating in, floating on,
    flying, flying above, flying in, flying over, flying through, full of, going down, going into, going through,
    grazing in, growing in, growing on, guiding, hanging from, hanging in, hanging off, hanging over, higher than,
    holding onto, hugging, in between, jumping off, jumping on, jumping over, kept in, larger than, leading, leaning
    over, leaving, licking, longer than, looking in, looking into, looking out, looking over, looking through, lying
    next to, lying on top of, making, mixed with, mounted on, moving, on the back of, on the edge of, on the front
    of, on the other side of, opening, painted on, parked at, parked beside, parked by, parked in, parked in front
    of, parked near, parked next to, perched on, petting, piled on, playing, playing in, playing on, playing with,
    pouring, reaching for, reading, reflected on, riding on, running in, running on, running through, seen through,
    sitting behind, sitting beside, sitting by, sitting in front of, sitting near, sitting next to, sitting under,
    skiing down, skiing on, sleeping in, sleeping on, smiling at, sniffing, splashing, sprinkled on, stacked on,
    standing against, standing around, standing behind, standing beside, standing in front of, standing near,
    standing next to, staring at, stuck in, surrounding, swimming in, swinging, talking to, topped with, touching,
    traveling down, traveling on, tying, typing on, underneath, wading in, waiting for, walking across, walking by,
    walking down, walking next to, walking through, working in, working on, worn on, wrapped around, wrapped in, by,
    of, near, next to, with, beside, on the side of, around
"""
SYMMETRIC = frozenset(" ".join(_SYMMETRIC.split()).split(", "))
