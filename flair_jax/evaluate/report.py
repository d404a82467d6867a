"""What the results of all tasks share, as text and as JSON; `..._task` modules have what is a task's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flair_jax.checkpoint import read_description
from flair_jax.files import replace_when_complete, version_of
from flair_jax.packages import versions
from flair_jax.weights.locate import description_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from flair_jax.evaluate.task import Table

_Number = TypeVar("_Number")

_FORM = 2  # of stored blocks; increased when their format changes
_MOST_TIES = 0.01  # share of the ranks that equal scores may decide without a warning


def reported(
    numbers: Mapping[str, Mapping[str, _Number]], source: dict[str, str], dataset: str, mode: str
) -> _Number | None:
    """The numbers that others report for a checkpoint on a set, or None.

    Args:
      numbers: checkpoint file's name without ending -> set -> numbers.
      source: from the checkpoint's `config.json`.
      dataset: name of the set.
      mode: of the evaluation; others report "text-conditioned".
    """
    if mode != "text-conditioned":
        return None
    return numbers.get(Path(source.get("file", "")).stem, {}).get(dataset)


def environment(
    checkpoint: str | Path, source: dict[str, str], dtype: str, settings: DataclassInstance
) -> dict[str, Any]:
    """All that a result depends on, as plain JSON values: settings, package versions, devices."""
    import jax

    devices = jax.devices()
    return {
        "settings": {**dataclasses.asdict(settings), "checkpoint": str(checkpoint), "source": source, "dtype": dtype},
        "versions": versions(),
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
    }


def identity(checkpoint: Path, environment: dict[str, Any], *others: Any) -> str:
    """A short hash of all that unfinished work of an evaluation depends on.

    Args:
      checkpoint: its folder; when it was written counts too.
      environment: from `environment`; `skip_broken` does not count, since blocks with gaps are not kept.
      *others: all else that it depends on, as plain JSON values.
    """
    how = {**environment, "settings": {**environment["settings"], "skip_broken": None}}
    written = version_of(description_file(checkpoint))
    values = [_FORM, read_description(checkpoint), written, how, *others]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with replace_when_complete(path) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def document(outcomes: Sequence[tuple[str, dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The contents of `--output`: one form for one or several sets, and for every task.

    Args:
      outcomes: task, result and environment of each set. Settings that they have not in common go with the results.
    """
    environments = [environment for _, _, environment in outcomes]
    shared = environments[0]["settings"]
    for each in environments:
        shared = {
            name: value
            for name, value in shared.items()
            if name in each["settings"] and each["settings"][name] == value
        }
    results = []
    for task, result, environment in outcomes:
        own = {name: value for name, value in environment["settings"].items() if name not in shared}
        results.append({"task": task, **result, **({"settings": own} if own else {})})
    return {"results": results, **environments[0], "settings": shared}


def count_of(count: int, whole: int | None) -> str:
    """A count, with that of the whole set if it differs."""
    return f"{count:,}" if whole in (None, count) else f"{count:,} of {whole:,}"


def tie_rows(
    ties: dict[str, Any], columns: Sequence[tuple[str, str]], cell: Callable[[str, float], str]
) -> Iterator[list[str]]:
    """Rows below that of a set: its metrics with ties counted for and against the model, where they differ.

    Args:
      ties: of a result.
      columns: the table's (name of a metric, heading).
      cell: (name of a metric, value) -> text.
    """
    for side in ("ties_for", "ties_against"):
        if any(key in ties[side] for key, _ in columns):
            yield [
                f"  {side.replace('_', ' ')}",
                *(cell(key, ties[side][key]) if key in ties[side] else "" for key, _ in columns),
            ]


def notes(entry: dict[str, Any]) -> Iterator[str]:
    """Sentences about a result: how much text was cut off, and a warning where ties decide many ranks."""
    cut = entry["cut_off"]
    yield (
        f"{entry['dataset']}: {100 * cut['texts_share']:.1f} % of the texts are longer than the model's "
        f"{cut['context_length']} tokens; {100 * cut['tokens_share']:.1f} % of all tokens are cut off"
    )
    decided = {kind: share for kind, share in entry.get("ties", {"share": {}})["share"].items() if share > _MOST_TIES}
    if decided:
        shares = ", ".join(f"{100 * share:.1f} % ({kind.replace('_', ' ')})" for kind, share in decided.items())
        yield (
            f"warning: {entry['dataset']}: equal scores decide {shares} of the ranks, by their order in the set; trust "
            "the figures no further than what ties make of them"
        )


def text_of(table: Table, dataset: str) -> list[str]:
    """A table as lines, with a blank one above; none if it has no row."""
    head = [f"{dataset}, {table.title}", *table.head[1:]]
    return ["", *aligned([head, *table.rows])] if table.rows else []


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its first column flush left and the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
