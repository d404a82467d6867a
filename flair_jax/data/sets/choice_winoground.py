"""Winoground: two pictures and two captions of the same words. Imports no JAX.

Thrush et al., "Winoground", CVPR 2022; huggingface.co/datasets/facebook/winoground has `data/examples.jsonl`, a line an
example with `image_0`, `image_1` (names of pictures without ending), `caption_0`, `caption_1` and `collapsed_tag`, and
`data/images.zip`, which is to be unpacked beside it.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from pathlib import Path

from flair_jax.data.sets.choice_data import Question, View
from flair_jax.data.sets.records import field
from flair_jax.errors import DatasetError


def read_winoground(_: Path, marker: Path, __: collections.Counter[str]) -> Iterator[Question]:
    """The examples, of which caption 0 is true of picture 0 and caption 1 of picture 1; kinds are the collapsed tags.

    Raises:
      DatasetError: if the file is not in this form.
    """
    try:
        lines = marker.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{marker}: cannot be read as text in UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{marker}, line {number}"
        try:
            example = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where}: cannot be read as JSON ({error})") from None
        names = [field(example, f"image_{which}", str, where) for which in range(2)]
        yield Question(
            [View(marker.parent / "images" / (name if Path(name).suffix else f"{name}.png")) for name in names],
            [field(example, f"caption_{which}", str, where) for which in range(2)],
            (0, 1),
            field(example, "collapsed_tag", str, where) if "collapsed_tag" in example else "",
        )
