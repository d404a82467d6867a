"""Results as a table and as JSON, beside the numbers published for a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flair_jax.checkpoint import read_description
from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.evaluate.retrieval import Evaluation, RetrievalSettings
from flair_jax.files import replace_when_complete
from flair_jax.packages import versions
from flair_jax.weights.locate import description_file

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
_FORM = 2  # of stored blocks; increased when their format changes
_MOST_TIES = 0.01  # share of the ranks that equal scores may decide without a warning


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
    dataset: str, folder: Path, evaluation: Evaluation, settings: RetrievalSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    numbers, entry = published(source, dataset, settings.mode), RETRIEVAL_SETS[dataset]
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "metrics": evaluation.metrics,
        "ties": dataclasses.asdict(evaluation.ties),
        "images": evaluation.images,
        "images_of_whole_set": entry.whole_images,
        "texts": evaluation.texts,
        "texts_of_whole_set": entry.whole_texts,
        "cut_off": dataclasses.asdict(evaluation.cut_off),
        "skipped": evaluation.skipped,
        "seconds": round(evaluation.seconds, 3),
        "published_R@1_percent": numbers and {"text_to_image": numbers[0], "image_to_text": numbers[1]},
    }


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
    written = description_file(checkpoint).stat().st_mtime_ns
    values = [_FORM, read_description(checkpoint), written, how, *others]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    with replace_when_complete(path) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def document(results: Sequence[dict[str, Any]], environment: dict[str, Any]) -> dict[str, Any]:
    """The contents of `--output`: one form for one or several sets, and for every task."""
    return {"results": list(results), **environment}


def table(results: Sequence[dict[str, Any]], mode: str) -> str:
    """Results as text, one line per set: recalls in per cent, ranks from 1; then the effect of ties, and notes."""
    head = ["set", "images", "texts", *(f"{name}" for _, name in _COLUMNS), "published R@1 (whole set)"]
    rows = []
    for entry in results:
        rows.append(
            [
                entry["dataset"],
                count_of(entry["images"], entry["images_of_whole_set"]),
                count_of(entry["texts"], entry["texts_of_whole_set"]),
                *(_cell(key, entry["metrics"][key]) for key, _ in _COLUMNS),
                _published_cell(entry["published_R@1_percent"]),
            ]
        )
        rows += [[name, "", "", *cells, ""] for name, *cells in tie_rows(entry["ties"], _COLUMNS, _cell)]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    note = "T>I: text to image, I>T: image to text; R@k in per cent, ranks from 1"
    lines = [f"retrieval, {mode} ({note})", *aligned([head, *rows])]
    return "\n".join([*lines, *(note for entry in results for note in notes(entry))])


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
