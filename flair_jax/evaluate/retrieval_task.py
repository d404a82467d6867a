"""`flair-jax evaluate` on retrieval sets: recalls and ranks, beside those published for a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flair_jax.data.sets.retrieval import RETRIEVAL_SETS
from flair_jax.errors import plural
from flair_jax.evaluate.report import aligned, count_of, notes, reported, tie_rows
from flair_jax.evaluate.retrieval import Evaluation, RetrievalSettings, evaluate
from flair_jax.evaluate.task import Details, Figure, Table, Task
from flair_jax.parallel.processes import ALONE, Processes

# R@1 in per cent, (text-to-image, image-to-text), text-conditioned: Xiao et al., CVPR 2025 (arXiv 2412.03561). The
# PyTorch release's Flickr30k split is val by default. Checkpoint file name without ending -> set -> numbers.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "flair-cc3m-recap": {"coco": (37.7, 51.6), "flickr30k-val": (65.7, 78.7)},
    "flair-cc12m-recap": {"coco": (47.8, 64.1), "flickr30k-val": (75.4, 90.8)},
    "flair-yfcc15m-recap": {"coco": (51.2, 67.3), "flickr30k-val": (79.2, 93.3)},
    "flair-merged30m": {"coco": (53.3, 68.0), "flickr30k-val": (81.1, 94.7)},
}
TERMS = {
    "R@k": "how often the right one is among the first k: for a caption, its picture (text to image); for a picture, "
    "one of its captions (image to text)",
    "rank": "place of the right one, from 1",
    "text-conditioned": "each caption pools the picture for itself, over all pairs, as published",
    "top-k": "the same for the captions that score best globally; the others rank below",
    "global": "without pooling, as CLIP does",
}
_COLUMNS = tuple(
    (f"{direction}_{metric}", f"{short} {label}")
    for direction, short in (("text_to_image", "T>I"), ("image_to_text", "I>T"))
    for metric, label in (("R@1", "R@1"), ("R@5", "R@5"), ("R@10", "R@10"), ("median_rank", "median"))
)


def task(processes: Processes = ALONE) -> Task:
    """Retrieval, shared by processes."""
    return Task(
        "retrieval",
        RETRIEVAL_SETS,
        lambda entry, folder: entry.load(folder),
        partial(evaluate, processes=processes),
        result,
        table,
        figures,
        details,
        TERMS,
    )


def result(
    dataset: str, folder: Path, evaluation: Evaluation, settings: RetrievalSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    numbers, entry = reported(PUBLISHED, source, dataset, settings.mode), RETRIEVAL_SETS[dataset]
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
        "by_length": evaluation.by_length,
        "worst": evaluation.worst,
        "published_R@1_percent": numbers and {"text_to_image": numbers[0], "image_to_text": numbers[1]},
    }


def table(results: Sequence[dict[str, Any]], settings: RetrievalSettings) -> str:
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
    lines = [f"retrieval, {settings.mode} ({note})", *aligned([head, *rows])]
    return "\n".join([*lines, *(note for entry in results for note in details(entry).notes)])


def details(entry: dict[str, Any]) -> Details:
    """All recalls and ranks; how much of the captions is cut off, and R@1 by their length."""
    metrics = ("R@1", "R@5", "R@10", "mean_rank", "median_rank")
    rows = []
    for way in ("text_to_image", "image_to_text"):
        columns = [(f"{way}_{each}", each) for each in metrics]
        rows.append([way.replace("_", " "), *(_exact(key, entry["metrics"][key]) for key, _ in columns)])
        rows += tie_rows(entry["ties"], columns, _exact)
    head = ["direction", *(each.replace("_", " ") for each in metrics)]
    return Details([Table("recalls in per cent, and ranks", head, rows)], [*notes(entry), *_by_length(entry)])


def _exact(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if "R@" in metric else f"{value:,.1f}"


def _by_length(entry: dict[str, Any]) -> list[str]:
    """A sentence; none if all captions are of like length, or an earlier release wrote the result."""
    classes = entry.get("by_length", [])
    words = [
        f"{first} tokens and more" if last is None else f"{first} to {last}"
        for first, last in (c["tokens"] for c in classes)
    ]
    shares = [
        f"{100 * each['text_to_image_R@1']:.1f} ({word}; {plural(each['texts'], 'text')})"
        for each, word in zip(classes, words, strict=True)
    ]
    return [f"{entry['dataset']}: T>I R@1 by the captions' tokens: {', '.join(shares)}"] if len(shares) > 1 else []


def figures(entry: dict[str, Any]) -> list[Figure]:
    """R@1 in both directions."""
    published = entry["published_R@1_percent"]
    return [
        Figure(
            f"{direction.replace('_', ' ')} R@1",
            100 * entry["metrics"][f"{direction}_R@1"],
            published and published[direction],
            "Xiao et al., CVPR 2025" if published else "",
        )
        for direction in ("text_to_image", "image_to_text")
    ]


def _cell(key: str, value: float) -> str:
    return f"{100 * value:.1f}" if "R@" in key else f"{value:.0f}"


def _published_cell(numbers: dict[str, float] | None) -> str:
    return f"{numbers['text_to_image']} / {numbers['image_to_text']}" if numbers else ""
