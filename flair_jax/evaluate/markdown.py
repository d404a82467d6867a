"""The page of evaluations as Markdown, without pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from flair_jax.errors import printable
from flair_jax.evaluate import summary

if TYPE_CHECKING:
    from flair_jax.evaluate.page import Section


def render(
    title: str,
    made: Sequence[str],
    failures: Sequence[str],
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    terms: Mapping[str, Mapping[str, str]],
    sections: Sequence[Section],
) -> str:
    """The page as text.

    Args:
      title: of the page.
      made: when and with what it was made.
      failures: sentences about sets that could not be evaluated.
      head: of the table of all sets.
      rows: likewise.
      terms: task -> word -> what it means.
      sections: one a set.
    """
    lines = [f"# {_escaped(title)}", "", f"{_escaped('; '.join(made))}.", "", *_table(head, rows)]
    if failures:
        lines += ["", "**Sets that failed**", "", *(f"- {_escaped(each)}" for each in failures)]
    for each in sections:
        lines += ["", f"## {_escaped(each.name)}", "", f"{_escaped(each.facts)}."]
        for table in each.tables:
            lines += ["", f"**{_escaped(table.title)}**", "", *_table(table.head, table.rows)]
        lines += ["", *(f"- {_escaped(note)}" for note in each.notes)] if each.notes else []
        if each.worst:
            lines += ["", "**Captions that missed their pictures the most**", ""]
            found = [
                [
                    f"{query['rank']:,}",
                    query["text"],
                    *(summary.within_set(query[key], each.outcome.result) for key in ("image", "first")),
                ]
                for query in each.worst
            ]
            lines += _table(("rank", "caption", "its picture", "found first"), found)
    lines += ["", "## What the words mean"]
    for task, words in terms.items():
        lines += ["", f"**{task}**", "", *(f"- {_escaped(word)}: {_escaped(means)}" for word, means in words.items())]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text without what Markdown and HTML would take for their own, within a line; `#` and the like begin one."""
    escaped = re.sub(r"[\\|`*~\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(" ".join(text.split())))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")
