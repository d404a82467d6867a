"""The contact sheet: a batch's images in one PNG, and a page with the captions beside them. Imports no JAX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from flair_jax import pages
from flair_jax.dry_run.batch import FirstBatch
from flair_jax.errors import plural
from flair_jax.files import replace_when_complete
from flair_jax.settings import TrainSettings

_COLUMNS, _GAP = 8, 4


def draw(batch: FirstBatch) -> Image.Image:
    """The images in reading order, as many as eight in a row, and nothing else."""
    side = batch.rows[0].pixels.shape[0]
    columns = min(_COLUMNS, len(batch.rows))
    step = side + _GAP
    size = (columns * step - _GAP, math.ceil(len(batch.rows) / columns) * step - _GAP)
    sheet = Image.new("RGB", size, "white")
    for number, row in enumerate(batch.rows):
        sheet.paste(Image.fromarray(row.pixels), ((number % columns) * step, number // columns * step))
    return sheet


def write_picture(path: Path, batch: FirstBatch) -> None:
    """Writes `draw` as PNG."""
    with replace_when_complete(path) as partial:
        draw(batch).save(partial, "PNG")


def write_page(
    path: Path, batch: FirstBatch, settings: TrainSettings, pairs: Sequence[str], facts: Sequence[tuple[str, str]]
) -> None:
    """Writes the page, which needs no other file.

    Args:
      path: to write.
      batch: what was read.
      settings: of the run.
      pairs: sentences on what is compared with what.
      facts: (what, words) of the dry run.

    Raises:
      FlairError: if Jinja2 is not installed.
    """
    cards = [
        (number, number // settings.group_size + 1, pages.data_url(Image.fromarray(row.pixels), "png"), row)
        for number, row in enumerate(batch.rows)
    ]
    text = pages.render(
        "batch",
        "the page of --dry-run",
        cards=cards,
        images=settings.batch_size,
        groups=settings.batch_size // settings.group_size,
        pairs=pairs,
        facts=facts,
    )
    pages.write(path, text)


def describe_pairs(settings: TrainSettings, own_loss: bool) -> list[str]:
    """What the loss compares, in sentences.

    Args:
      settings: of the run.
      own_loss: whether the loss is not one of ours, so that nothing is known of it.
    """
    each, group = settings.captions_per_image, settings.group_size
    if own_loss:
        return ["The loss is not flair_jax's own, so what it compares is not known here."]
    groups = f"{plural(settings.batch_size // group, 'group')} of {plural(group, 'image')}"
    found = [f"The batch has {groups}; each image is compared with captions of its own group, never of another."]
    if "tcs" in settings.loss.terms:
        found.append(
            f"Text-conditioned loss (tcs in config.loss.terms): each image, pooled by each caption in turn, has its "
            f"{each} captions as positives, and as negatives {group - 1:,}: one caption of each other image of the "
            "group, drawn anew in every step."
        )
    if "mps" in settings.loss.terms:
        found.append(
            f"Multi-positive loss (mps in config.loss.terms): each image as a whole has its {each} captions as "
            f"positives, and all {each * (group - 1):,} captions of the group's other images as negatives."
        )
    return found
