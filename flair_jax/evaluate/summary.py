"""What several evaluations come to, side by side: one table in a terminal, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flair_jax.data.sets.retrieval_data import Picture
from flair_jax.errors import printable
from flair_jax.evaluate.report import aligned, count_of
from flair_jax.evaluate.task import Task

HEAD = ("task", "set", "images", "measure", "per cent", "others", "by whom")


class Outcome(NamedTuple):
    """What came out of one set.

    Attributes:
      task: its task.
      settings: with which it was asked for.
      result: plain JSON values.
      environment: from `report.environment`.
      pictures: those that the result names, by their names.
    """

    task: Task
    settings: Any
    result: dict[str, Any]
    environment: dict[str, Any]
    pictures: Mapping[str, Picture]


def figures(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The rows of the table as plain JSON values."""
    return [
        {"task": outcome.task.name, "dataset": outcome.result["dataset"], **figure._asdict()}
        for outcome in outcomes
        for figure in outcome.task.figures(outcome.result)
    ]


def rows(outcomes: Sequence[Outcome]) -> Iterator[list[str]]:
    """The rows of the table as text; task, set and images are given once."""
    for task, _, result, *_ in outcomes:
        first = [task.name, result["dataset"], count_of(result["images"], result.get("images_of_whole_set"))]
        for figure in task.figures(result):
            others = "" if figure.others is None else f"{figure.others:.1f}"
            yield [*first, figure.measure, f"{figure.percent:.1f}", others, figure.source]
            first = [""] * len(first)


def table(outcomes: Sequence[Outcome]) -> str:
    """For a terminal; the last two columns only if others' numbers are known."""
    shown = [list(HEAD), *rows(outcomes)]
    if not any(row[-2] for row in shown[1:]):
        shown = [row[:-2] for row in shown]
    return "\n".join(["all that was measured", *aligned(shown)])


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A page: the table, and the queries of each set that went most wrong, without their pictures."""
    settings = outcomes[0].environment["settings"]
    lines = [
        f"# {_cell(settings['checkpoint'])}",
        "",
        _line(HEAD),
        _line(["---"] * len(HEAD)),
        *map(_line, rows(outcomes)),
    ]
    for outcome in outcomes:
        if worst := outcome.result.get("worst"):
            lines += ["", f"## {outcome.result['dataset']}: captions that missed their pictures the most", ""]
            lines += [_line(("rank", "caption", "its picture", "found first")), _line(["---"] * 4)]
            lines += [_line([f"{each['rank']:,}", each["text"], each["image"], each["first"]]) for each in worst]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Text without what Markdown and HTML would take for their own."""
    escaped = printable(" ".join(text.split()))
    for special, written in (("&", "&amp;"), ("<", "&lt;"), ("\\", "\\\\"), ("|", "\\|"), ("`", "\\`")):
        escaped = escaped.replace(special, written)
    return escaped
