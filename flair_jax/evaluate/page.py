"""Evaluations as one HTML page, with the pictures of the queries that went most wrong in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flair_jax import pages
from flair_jax.data.sets.retrieval_data import Picture, read_picture
from flair_jax.data.thumbnails import thumbnail
from flair_jax.errors import ImageError
from flair_jax.evaluate import summary


def write_report(output: Path, outcomes: Sequence[summary.Outcome]) -> None:
    """Writes a page that needs no other file: HTML with pictures, or, if its name ends in .md, Markdown without.

    Args:
      output: file to write.
      outcomes: one at least.

    Raises:
      FlairError: if it is HTML and Jinja2 is not installed.
    """
    pages.write(output, summary.markdown(outcomes) if output.suffix == ".md" else _html(outcomes))


def _html(outcomes: Sequence[summary.Outcome]) -> str:
    """The rows of each set under its task, name and size; others' numbers only if some are known."""
    columns: Sequence[str] = summary.HEAD[4:]
    groups = []
    for each in outcomes:
        rows = list(summary.rows([each]))
        task, name, images = rows[0][:3]
        groups.append((f"{task}: {name}, {images} images", [row[3:] for row in rows]))
    if not any(others for _, rows in groups for _, _, others, _ in rows):
        groups, columns = [(title, [row[:2] for row in rows]) for title, rows in groups], columns[:1]
    return pages.render(
        "evaluation",
        "--report",
        checkpoint=outcomes[0].environment["settings"]["checkpoint"],
        columns=columns,
        groups=groups,
        sets=[(each.result["dataset"], _queries(each)) for each in outcomes if each.result.get("worst")],
    )


def _queries(outcome: summary.Outcome) -> list[dict[str, Any]]:
    return [
        {
            "text": each["text"],
            "pictures": [
                (what, each[key], _thumbnail(outcome.pictures.get(each[key])))
                for what, key in ((f"its own, at rank {each['rank']:,}", "image"), ("found first", "first"))
            ],
        }
        for each in outcome.result["worst"]
    ]


def _thumbnail(picture: Picture | None) -> str:
    try:
        return "" if picture is None else thumbnail(read_picture(picture))
    except (OSError, ImageError):
        return ""
