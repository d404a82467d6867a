"""Classification as a task of `flair-jax evaluate`: its sets, its result as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flair_jax.data.classification_sets import CLASSIFICATION_SETS
from flair_jax.evaluate.classification import Classification, ClassificationSettings, classify
from flair_jax.evaluate.command import Task
from flair_jax.evaluate.report import aligned

# Top-1 in per cent that others measured with released weights, text-conditioned; not the authors', who publish none.
# Checkpoint file name without ending -> set -> number. CIFAR-10: with nine templates.
MEASURED_BY_OTHERS: dict[str, dict[str, float]] = {"flair-merged30m": {"cifar10": 92.82}}

_WORST = 5


def task(class_names: str | None = None) -> Task:
    """The task.

    Args:
      class_names: file of names to use in place of the sets' own.
    """
    return Task(CLASSIFICATION_SETS, lambda entry, folder: entry.load(folder, class_names), classify, result, table)


def measured_by_others(source: dict[str, str], dataset: str, mode: str) -> float | None:
    """The top-1 in per cent that others report for a checkpoint, or None; arguments as `report.published`."""
    if mode != "text-conditioned":
        return None
    return MEASURED_BY_OTHERS.get(Path(source.get("file", "")).stem, {}).get(dataset)


def result(
    dataset: str, folder: Path, evaluation: Classification, settings: ClassificationSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "metrics": evaluation.metrics,
        "images": evaluation.images,
        "images_of_whole_set": evaluation.whole,
        "skipped": evaluation.skipped,
        "seconds": round(evaluation.seconds, 3),
        "measured_by_others_top1_percent": measured_by_others(source, dataset, settings.mode),
        "templates": list(evaluation.templates),
        "classes": evaluation.classes,
    }


def table(results: Sequence[dict[str, Any]], mode: str) -> str:
    """Results as text: one line a set, then the classes of each set that are recognised worst."""
    head = ["set", "images", "classes", "templates", "top-1", "top-5", "mean per class", "by others (9 templates)"]
    rows = [
        [
            entry["dataset"],
            _images(entry["images"], entry["images_of_whole_set"]),
            f"{len(entry['classes']):,}",
            f"{len(entry['templates'])}",
            *(f"{100 * entry['metrics'][name]:.2f}" for name in ("top1", "top5", "mean_per_class_top1")),
            f"{entry['measured_by_others_top1_percent'] or ''}",
        ]
        for entry in results
    ]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines = [f"classification, {mode} (top-k in per cent)", *aligned([head, *rows])]
    for entry in results:
        lines += _worst(entry)
    return "\n".join(lines)


def _images(count: int, whole: int | None) -> str:
    return f"{count:,}" if whole in (None, count) else f"{count:,} of {whole:,}"


def _worst(entry: dict[str, Any]) -> list[str]:
    """The classes with the lowest top-1 as lines, the lowest first; nothing if all are perfect."""
    known = [each for each in entry["classes"] if each["pictures"] and each["top1"] < 1]
    rows = [
        [each["name"], f"{each['pictures']:,}", f"{100 * each['top1']:.2f}", each["taken_for"] or ""]
        for each in sorted(known, key=lambda each: each["top1"])[:_WORST]
    ]
    head = [f"{entry['dataset']}, worst classes", "images", "top-1", "most often taken for"]
    return ["", *aligned([head, *rows])] if rows else []
