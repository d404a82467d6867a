"""Results as a table and as JSON, beside the numbers published for a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flair_jax.checkpoint import description_file, read_description
from flair_jax.evaluate.run import Evaluation, Settings
from flair_jax.files import replace_when_complete

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# R@1 in per cent, (text-to-image, image-to-text), text-conditioned: Xiao et al., CVPR 2025 (arXiv 2412.03561). The
# PyTorch release's Flickr30k split is val by default. Checkpoint file name without ending -> set -> numbers.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "flair-cc3m-recap": {"coco": (37.7, 51.6), "flickr30k-val": (65.7, 78.7)},
    "flair-cc12m-recap": {"coco": (47.8, 64.1), "flickr30k-val": (75.4, 90.8)},
    "flair-yfcc15m-recap": {"coco": (51.2, 67.3), "flickr30k-val": (79.2, 93.3)},
    "flair-merged30m": {"coco": (53.3, 68.0), "flickr30k-val": (81.1, 94.7)},
}
# Mean IoU in per cent without pooling, as users of the PyTorch release report it; not from the paper.
REPORTED_MEAN_IOU: dict[str, dict[str, float]] = {"flair-merged30m": {"voc20": 73.0}}
_PACKAGES = ("flair-jax", "jax", "jaxlib", "flax", "numpy", "pillow")


def published(source: dict[str, str], dataset: str, mode: str) -> tuple[float, float] | None:
    """The published R@1 (text-to-image, image-to-text) in per cent for a checkpoint, or None.

    Args:
      source: from the checkpoint's `config.json`.
      dataset: name of the set.
      mode: of the evaluation; the numbers were published for "text-conditioned".
    """
    if mode != "text-conditioned":
        return None
    return PUBLISHED.get(Path(source.get("file", "")).stem, {}).get(dataset)


def result(
    dataset: str, folder: Path, evaluation: Evaluation, settings: Settings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    numbers = published(source, dataset, settings.mode)
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "metrics": evaluation.metrics,
        "images": evaluation.images,
        "texts": evaluation.texts,
        "skipped": evaluation.skipped,
        "seconds": round(evaluation.seconds, 3),
        "published_R@1_percent": numbers and {"text_to_image": numbers[0], "image_to_text": numbers[1]},
    }


def environment(
    checkpoint: str | Path, source: dict[str, str], dtype: str, settings: DataclassInstance
) -> dict[str, Any]:
    """What a result depends on, as plain JSON values: settings, package versions, devices."""
    import jax

    devices = jax.devices()
    return {
        "settings": {**dataclasses.asdict(settings), "checkpoint": str(checkpoint), "source": source, "dtype": dtype},
        "versions": {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
    }


def identity(checkpoint: Path, environment: dict[str, Any], *others: Any) -> str:
    """A short hash of all that unfinished work of an evaluation depends on.

    Args:
      checkpoint: its folder; when it was written counts too.
      environment: from `environment`; `skip_broken` does not count, since blocks with gaps are not kept.
      *others: what else it depends on, as plain JSON values.
    """
    how = {**environment, "settings": {**environment["settings"], "skip_broken": None}}
    written = description_file(checkpoint).stat().st_mtime_ns
    values = [read_description(checkpoint), written, how, *others]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with replace_when_complete(path) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def table(results: Sequence[dict[str, Any]], mode: str) -> str:
    """Results as text, one line a set: recalls in per cent, ranks counted from 1."""
    head = ["set", "images", "texts", *(f"{name}" for _, name in _COLUMNS), "published R@1 (whole set)"]
    rows = [
        [
            entry["dataset"],
            f"{entry['images']:,}",
            f"{entry['texts']:,}",
            *(_cell(key, entry["metrics"][key]) for key, _ in _COLUMNS),
            _published_cell(entry["published_R@1_percent"]),
        ]
        for entry in results
    ]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    note = "T>I: text to image, I>T: image to text; R@k in per cent, ranks from 1"
    return "\n".join([f"retrieval, {mode} ({note})", *aligned([head, *rows])])


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


_COLUMNS = tuple(
    (f"{direction}_{metric}", f"{short} {label}")
    for direction, short in (("text_to_image", "T>I"), ("image_to_text", "I>T"))
    for metric, label in (("R@1", "R@1"), ("R@5", "R@5"), ("R@10", "R@10"), ("median_rank", "median"))
)


def _cell(key: str, value: float) -> str:
    return f"{100 * value:.1f}" if "R@" in key else f"{value:.0f}"


def _published_cell(numbers: dict[str, float] | None) -> str:
    return f"{numbers['text_to_image']} / {numbers['image_to_text']}" if numbers else ""
