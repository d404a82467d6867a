"""The interface of a task of evaluation: its data sets, and functions from these to a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Set(Protocol):
    """What the data sets of every task offer."""

    @property
    def name(self) -> str:
        """Its name for `--dataset`."""
        ...

    def find(self, folder: Path) -> Any:
        """The file or folder that marks the set in a folder; None if the set is not there."""
        ...


class Figure(NamedTuple):
    """One of the numbers that stand for a result.

    Attributes:
      measure: what it is.
      percent: its value.
      others: what others published or measured for this checkpoint, in per cent, or None.
      source: who and where; "" if there is none.
    """

    measure: str
    percent: float
    others: float | None = None
    source: str = ""


class Table(NamedTuple):
    """Figures of a result in more detail.

    Attributes:
      title: what they are.
      head: names of the columns, of the rows' names first.
      rows: of text.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Details(NamedTuple):
    """What a page says of a result beside the numbers that stand for it.

    Attributes:
      tables: of it.
      notes: sentences, which begin with the set's name and a colon.
    """

    tables: Sequence[Table]
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Task:
    """Something to score a model by.

    Attributes:
      name: for `--task`.
      sets: its data sets, by name.
      load: (set, folder) -> data, with a method `digest` that says whether it is the same.
      evaluate: (model, retriever, data, settings, store) -> evaluation, with `skipped`; see `retrieval.evaluate`.
      result: (set's name, folder, evaluation, settings, source) -> plain JSON values; see `retrieval_task.result`.
      table: (results, settings) -> text.
      figures: result -> the numbers that stand for it beside other tasks'.
      details: result -> what a page says besides.
      terms: word of the figures and tables -> what it means.
      fit: (settings, data, the model's config, set's name) -> the settings that this set and model are evaluated with.
      extra: what unfinished work depends on besides, as plain JSON values.
    """

    name: str
    sets: Mapping[str, Set]
    load: Callable[[Any, Path], Any]
    evaluate: Callable[..., Any]
    result: Callable[..., dict[str, Any]]
    table: Callable[[Sequence[dict[str, Any]], Any], str]
    figures: Callable[[dict[str, Any]], list[Figure]]
    details: Callable[[dict[str, Any]], Details]
    terms: Mapping[str, str]
    fit: Callable[..., Any] = lambda settings, *_: settings
    extra: tuple[Any, ...] = ()
