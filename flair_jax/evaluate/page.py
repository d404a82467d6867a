"""Evaluations as one page, HTML or Markdown, each with the same words and figures."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flair_jax import pages
from flair_jax.data.sets.retrieval_data import Picture, read_picture
from flair_jax.data.thumbnails import thumbnail
from flair_jax.errors import ImageError, plural
from flair_jax.evaluate import markdown, summary
from flair_jax.evaluate.task import Table

# Settings that tell how a set was scored; others, such as how many pictures at once, do not change what it means.
_HOW = ("mode", "top_k", "segment_by", "short_side", "background_threshold")


_MOST_NAMED = 20  # pictures that were left out


class Section(NamedTuple):
    """What is said of one set.

    Attributes:
      name: its task and name.
      facts: where its data lie, and how it was scored.
      tables: of it.
      notes: sentences.
      worst: of retrieval, the captions that missed their pictures the most, as `retrieval_details.find_worst` has them.
      outcome: where all of it is from.
    """

    name: str
    facts: str
    tables: Sequence[Table]
    notes: Sequence[str]
    worst: Sequence[dict[str, Any]]
    outcome: summary.Outcome


def write_report(output: Path, outcomes: Sequence[summary.Outcome], failures: Sequence[str] = ()) -> None:
    """Writes a page that needs no other file: HTML with pictures, or, if its name ends in .md, Markdown without.

    Args:
      output: file to write.
      outcomes: one at least.
      failures: sentences about sets that were asked for too, and could not be evaluated.

    Raises:
      FlairError: if it is HTML and Jinja2 is not installed.
    """
    environment = outcomes[0].environment
    title = f"Evaluation of {environment['settings']['checkpoint']}"
    made = [
        f"written {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        ", ".join(f"{name} {environment['versions'][name]}" for name in ("flair-jax", "jax")),
        environment["settings"]["dtype"],
        f"{environment['device']['count']} x {environment['device']['kind']}",
    ]
    terms: dict[str, dict[str, str]] = {each.task.name: dict(each.task.terms) for each in outcomes}
    sections = list(map(_section, outcomes))
    if output.suffix == ".md":
        pages.write(
            output, markdown.render(title, made, failures, summary.HEAD, summary.rows(outcomes), terms, sections)
        )
    else:
        pages.write(output, _html(title, made, failures, outcomes, terms, sections))


def _section(outcome: summary.Outcome) -> Section:
    result, settings = outcome.result, outcome.environment["settings"]
    details = outcome.task.details(result)
    how = [name for name in _HOW if settings.get(name) is not None]
    if settings.get("mode") != "top-k" and "top_k" in how:
        how.remove("top_k")
    return Section(
        f"{outcome.task.name}: {summary.set_name(result)}",
        ", ".join([f"data: {result['data_dir']}", *(f"{name.replace('_', ' ')}: {settings[name]}" for name in how)]),
        [table for table in details.tables if table.rows],
        [*_skipped(result["skipped"]), *(note.replace(f"{result['dataset']}: ", "", 1) for note in details.notes)],
        result.get("worst", ()),
        outcome,
    )


def _skipped(messages: Sequence[str]) -> Iterator[str]:
    if messages:
        named, more = messages[:_MOST_NAMED], len(messages) - _MOST_NAMED
        yield f"left out {plural(len(messages), 'broken picture')}: {'; '.join(named)}" + (
            f"; and {more:,} more, which the JSON file names" if more > 0 else ""
        )


def _html(
    title: str,
    made: Sequence[str],
    failures: Sequence[str],
    outcomes: Sequence[summary.Outcome],
    terms: dict[str, dict[str, str]],
    sections: Sequence[Section],
) -> str:
    """The rows of each set under its task, name and size; others' numbers only if some are known."""
    columns: Sequence[str] = summary.HEAD[4:]
    groups = []
    for each in outcomes:
        rows = list(summary.rows([each]))
        task, name, images = rows[0][:3]
        groups.append((f"{task}: {name}, {images} {'image' if images == '1' else 'images'}", [row[3:] for row in rows]))
    if not any(others for _, rows in groups for _, _, others, _ in rows):
        groups, columns = [(group, [row[:2] for row in rows]) for group, rows in groups], columns[:1]
    return pages.render(
        "evaluation",
        "--report",
        title=title,
        made=made,
        failures=failures,
        columns=columns,
        groups=groups,
        terms=terms,
        sections=[(each, list(_queries(each))) for each in sections],
    )


def _queries(section: Section) -> Iterator[dict[str, Any]]:
    for each in section.worst:
        own, first = (summary.within_set(each[key], section.outcome.result) for key in ("image", "first"))
        yield {
            "text": each["text"],
            "pictures": [
                (what, short, each[key], _thumbnail(section.outcome.pictures.get(each[key])))
                for what, key, short in (
                    (f"its own, at rank {each['rank']:,}", "image", own),
                    ("found first", "first", first),
                )
            ],
        }


def _thumbnail(picture: Picture | None) -> str:
    try:
        return "" if picture is None else thumbnail(read_picture(picture))
    except (OSError, ImageError):
        return ""
