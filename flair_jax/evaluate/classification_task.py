"""Classification as a task of `flair-jax evaluate`: its sets, its result as JSON and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flair_jax.data.sets.classification import CLASSIFICATION_SETS, ClassificationData, ClassificationSet
from flair_jax.errors import DatasetError, plural
from flair_jax.evaluate.classification import Classification, ClassificationSettings, classify
from flair_jax.evaluate.report import aligned, count_of, notes, reported, text_of, tie_rows
from flair_jax.evaluate.task import Details, Figure, Table, Task

# Top-1 in per cent that others measured with released weights, text-conditioned; not the authors', who publish none.
# Checkpoint file name without ending -> set -> number. CIFAR-10: with nine templates.
MEASURED_BY_OTHERS: dict[str, dict[str, float]] = {"flair-merged30m": {"cifar10": 92.82}}

TERMS = {
    "top-k": "how often the picture's class is among the k whose words score best",
    "mean per class": "the mean over classes of their own top-1, so that each counts alike",
    "text-conditioned": "the words of each class pool the picture for themselves",
    "global": "without pooling, as CLIP does",
}

_WORST = 5
_COLUMNS = (("top1", "top-1"), ("top5", "top-5"), ("mean_per_class_top1", "mean per class"))


def task(class_names: str | None = None) -> Task:
    """The task.

    Args:
      class_names: file of names to use in place of the sets' own.
    """
    return Task(
        "classify",
        CLASSIFICATION_SETS,
        lambda entry, folder: _load(entry, folder, class_names),
        classify,
        result,
        table,
        figures,
        details,
        TERMS,
    )


def _load(entry: ClassificationSet, folder: Path, class_names: str | None) -> ClassificationData:
    data = entry.load(folder, class_names)
    if len(set(data.names)) == 1:
        raise DatasetError(
            f"{folder}: all pictures are of one class, {data.names[0]}, so that there is nothing to choose; name "
            "the folder in which each class has its own"
        )
    return data


def result(
    dataset: str, folder: Path, evaluation: Classification, settings: ClassificationSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "metrics": evaluation.metrics,
        "ties": dataclasses.asdict(evaluation.ties),
        "images": evaluation.images,
        "images_of_whole_set": evaluation.whole,
        "skipped": evaluation.skipped,
        "seconds": round(evaluation.seconds, 3),
        "measured_by_others_top1_percent": reported(MEASURED_BY_OTHERS, source, dataset, settings.mode),
        "templates": list(evaluation.templates),
        "cut_off": dataclasses.asdict(evaluation.cut_off),
        "classes": evaluation.classes,
    }


def table(results: Sequence[dict[str, Any]], settings: ClassificationSettings) -> str:
    """Results as text: one line per set, the effect of ties, notes, and the classes recognised worst in each."""
    head = ["set", "images", "classes", "templates", *(name for _, name in _COLUMNS), "by others (9 templates)"]
    rows = []
    for entry in results:
        rows.append(
            [
                entry["dataset"],
                count_of(entry["images"], entry["images_of_whole_set"]),
                f"{len(entry['classes']):,}",
                f"{len(entry['templates'])}",
                *(_cell(key, entry["metrics"][key]) for key, _ in _COLUMNS),
                f"{entry['measured_by_others_top1_percent'] or ''}",
            ]
        )
        rows += [[name, "", "", "", *cells, ""] for name, *cells in tie_rows(entry["ties"], _COLUMNS, _cell)]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [f"classification, {settings.mode} (top-k in per cent)", *aligned([head, *rows])]
    for entry in results:
        lines += [*notes(entry), *text_of(_worst(entry), entry["dataset"])]
    return "\n".join(lines)


def details(entry: dict[str, Any]) -> Details:
    """All metrics, and the classes recognised worst."""
    cells = [_cell(key, entry["metrics"][key]) for key, _ in _COLUMNS]
    rows = [["all pictures", *cells], *tie_rows(entry["ties"], _COLUMNS, _cell)]
    count = f"{len(entry['classes']):,} classes, {plural(len(entry['templates']), 'template')}, in per cent"
    return Details([Table(count, ["", *(name for _, name in _COLUMNS)], rows), _worst(entry)], list(notes(entry)))


def figures(entry: dict[str, Any]) -> list[Figure]:
    """Top-1."""
    others = entry["measured_by_others_top1_percent"]
    source = "measured by others with nine templates, not the authors" if others else ""
    return [Figure("top-1", 100 * entry["metrics"]["top1"], others, source)]


def _cell(_: str, value: float) -> str:
    return f"{100 * value:.2f}"


def _worst(entry: dict[str, Any]) -> Table:
    """The classes with the lowest top-1, the lowest first; no row if all are perfect."""
    known = [each for each in entry["classes"] if each["pictures"] and each["top1"] < 1]
    rows = [
        [each["name"], f"{each['pictures']:,}", f"{100 * each['top1']:.2f}", each["taken_for"] or ""]
        for each in sorted(known, key=lambda each: each["top1"])[:_WORST]
    ]
    return Table("worst classes", ["class", "images", "top-1", "most often taken for"], rows)
