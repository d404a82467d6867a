"""Pointing as a task of `flair-jax evaluate`: its sets, its result as JSON and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flair_jax.data.sets.grounding import GROUNDING_SETS
from flair_jax.errors import plural
from flair_jax.evaluate.localization import CHOSEN, COVERED, MATCHING
from flair_jax.evaluate.pointing import METRICS, Pointing, PointSettings, point
from flair_jax.evaluate.report import aligned, count_of, notes, text_of
from flair_jax.evaluate.task import Details, Figure, Table, Task
from flair_jax.scoring.maps import MAPS

_HEADINGS = ("pointing", "by pixel", "mean IoU", "box accuracy")
TERMS = {
    "pointing": f"how often what the phrase names covers {100 * COVERED:.0f} % or more of the map's highest patch",
    "by pixel": "how often the centre of the highest patch lies in what is named",
    "mean IoU": "overlap of what is named with the map, enlarged, and cut halfway between its lowest and highest value",
    "box accuracy": f"how often the smallest boxes around both have an IoU of {MATCHING} or more",
    "attention": "a map of each patch's weight in the text-conditioned pooling, mean of the heads",
    "patches": "a map of the cosine of each local token with the phrase, without pooling",
    "pooled-patches": "the same after each local token went through the pooling alone",
    "centre": "a map without a model: the higher, the nearer to the picture's centre",
    "uniform": "a map that is the same everywhere: it points at random, which is chance, and chooses the whole picture",
}


def task() -> Task:
    """The task."""
    return Task(
        "point",
        GROUNDING_SETS,
        lambda entry, folder: entry.load(folder),
        point,
        result,
        table,
        figures,
        details,
        TERMS,
    )


def result(
    dataset: str, folder: Path, evaluation: Pointing, settings: PointSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    del settings, source
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "images_of_whole_set": GROUNDING_SETS[dataset].whole_images,
        **dataclasses.asdict(evaluation),
        "seconds": round(evaluation.seconds, 3),
        "thresholds": {"covered": COVERED, "chosen": CHOSEN, "matching": MATCHING},
    }


def figures(entry: dict[str, Any]) -> list[Figure]:
    """The pointing game with each map, and chance."""
    return [Figure(f"pointing, {name}", 100 * entry["metrics"][name]["pointing"]) for name in entry["metrics"]]


def table(results: Sequence[dict[str, Any]], settings: PointSettings) -> str:
    """Results as text: the maps and the baselines of each set, its kinds of phrases, and notes."""
    del settings
    rows = [["set", "images", "phrases", "map", *_HEADINGS]]
    for entry in results:
        counts = [
            entry["dataset"],
            count_of(entry["images"], entry["images_of_whole_set"]),
            f"{entry['phrases']:,}",
        ]
        for row in _maps(entry):
            rows.append([*counts, *row])
            counts = [""] * len(counts)
    lines = [
        "pointing at what phrases name, per cent of the phrases "
        f"(a patch counts of which {100 * COVERED:.0f} % are covered; maps are cut at {CHOSEN} of their range; boxes "
        f"match from an IoU of {MATCHING})",
        *aligned(rows),
    ]
    for entry in results:
        (_, kinds), sentences = details(entry)
        lines += [*sentences, *text_of(kinds, entry["dataset"])]
    return "\n".join(lines)


def details(entry: dict[str, Any]) -> Details:
    """Every metric of every map, and the pointing game by kinds of phrases, which not every set has."""
    maps = Table(f"per cent of {plural(entry['phrases'], 'phrase')}", ["map", *_HEADINGS], list(_maps(entry)))
    rows = [
        [kind, f"{values['phrases']:,}", *(f"{100 * values[name]['pointing']:.1f}" for name in entry["metrics"])]
        for kind, values in entry["kinds"].items()
    ]
    kinds = Table("pointing by kind", ["kind", "phrases", *entry["metrics"]], rows)
    return Details([maps, kinds], [*_notes(entry), *notes(entry)])


def _maps(entry: dict[str, Any]) -> Iterator[list[str]]:
    for name, values in entry["metrics"].items():
        yield [name, *(f"{100 * values[metric]:.1f}" for metric in METRICS)]


def _notes(entry: dict[str, Any]) -> Iterator[str]:
    """Sentences about what the phrases are compared with, and about those that are left out."""
    boxes = entry["phrases"] - entry["outlined"]
    compared = " and ".join(
        f"{plural(count, 'phrase')} with {what}"
        for count, what in ((entry["outlined"], "outlines"), (boxes, "boxes"))
        if count
    )
    yield f"{entry['dataset']}: {compared}"
    for name in MAPS:
        if name not in entry["metrics"]:
            yield f"{entry['dataset']}: no map of {name}, which the model's pooling does not have"
    if entry["too_small"]:
        small = plural(entry["too_small"], "phrase")
        yield (
            f"{entry['dataset']}: counted as missed: {small} for what covers {100 * COVERED:.0f} % of no patch, so "
            "that no map points at it but by pixel"
        )
    for reason, count in entry["left_out"].items():
        yield f"{entry['dataset']}: not judged: {plural(count, 'more phrase')} ({reason})"
