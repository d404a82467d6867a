"""What several evaluations come to, side by side: one table in a terminal, as JSON and on pages."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flair_jax.buckets import is_remote
from flair_jax.data.sets.retrieval_data import Picture
from flair_jax.evaluate.report import aligned, count_of
from flair_jax.evaluate.task import Task

HEAD = ("task", "set", "images", "measure", "per cent", "others", "by whom")
_OWN = ("folder", "parquet")  # sets that are whatever users have


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


def set_name(result: Mapping[str, Any]) -> str:
    """The set's name; of users' own, which all have one name, with that of the folder."""
    name, folder = result["dataset"], result["data_dir"]
    if name not in _OWN:
        return str(name)
    return f"{name} {os.path.basename(folder.rstrip('/') if is_remote(folder) else os.path.abspath(folder))}"


def within_set(path: str, result: Mapping[str, Any]) -> str:
    """The name of one of a set's pictures within the set's folder."""
    return path.removeprefix(f"{result['data_dir'].rstrip('/')}/")


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
        first = [task.name, set_name(result), count_of(result["images"], result.get("images_of_whole_set"))]
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
