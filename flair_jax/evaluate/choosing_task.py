"""Choosing captions as a task of `flair-jax evaluate`: its sets, its result as JSON and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flair_jax.data.sets.choice import CHOICE_SETS
from flair_jax.errors import plural, printable
from flair_jax.evaluate.choosing import ChooseSettings, Choosing, choose
from flair_jax.evaluate.choosing_scores import WAYS
from flair_jax.evaluate.report import aligned, count_of, notes, text_of
from flair_jax.evaluate.task import Details, Figure, Table, Task

_MOST_KINDS = 12  # in the table; the JSON file has them all
TERMS = {
    "accuracy": "the questions in which every true caption scores higher than every false one; equal scores count as "
    "wrong",
    "text, image, group": "with two pictures: each one's own caption scores higher than the other's; each caption's "
    "own picture does; both",
    "mean of kinds": "the mean over the set's kinds of questions, where it has such",
    "global": "a caption's cosine with the picture's one global feature, as CLIP's",
    "text-conditioned": "its cosine with the picture pooled by it",
    "box-tokens": "the same, of a box: the model sees the whole picture, and the pooling the box's tokens alone",
    "chance": "what scores at random get",
}


def task() -> Task:
    """The task."""
    return Task(
        "choose",
        CHOICE_SETS,
        lambda entry, folder: entry.load(folder),
        choose,
        result,
        table,
        figures,
        details,
        TERMS,
    )


def result(
    dataset: str, folder: Path, evaluation: Choosing, settings: ChooseSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    del settings, source
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "questions_of_whole_set": CHOICE_SETS[dataset].whole_questions,
        **dataclasses.asdict(evaluation),
        "mean_of_kinds": _mean_of_kinds(dataset, evaluation),
        "seconds": round(evaluation.seconds, 3),
    }


def _mean_of_kinds(dataset: str, evaluation: Choosing) -> dict[str, Any]:
    """The mean over kinds of their metrics, with their number as `kinds`; empty if there is no kind that counts."""
    entry = CHOICE_SETS[dataset]
    counted = [
        values
        for kind, values in evaluation.kinds.items()
        if kind not in entry.mean_without and values["questions"] >= entry.mean_from
    ]
    if not counted:
        return {}
    means = {
        way: {metric: sum(values[way][metric] for values in counted) / len(counted) for metric in metrics}
        for way, metrics in evaluation.metrics.items()
    }
    return {"kinds": len(counted), **means}


def figures(entry: dict[str, Any]) -> list[Figure]:
    """Each way's metrics, as means of kinds if the set has such."""
    means = entry["mean_of_kinds"]
    kind = ", mean of kinds" if means else ""
    return [
        Figure(f"{metric}, {way}{kind}", 100 * value)
        for way, values in entry["metrics"].items()
        for metric, value in means.get(way, values).items()
    ]


def table(results: Sequence[dict[str, Any]], settings: ChooseSettings) -> str:
    """Results as text: the ways of each set with chance below, its kinds of questions, and notes."""
    del settings
    lines = ["choosing the captions that are true, per cent of the questions (equal scores count against the model)"]
    for several in (False, True):
        chosen = [entry for entry in results if ("group" in entry["metrics"]["chance"]) == several]
        if chosen:
            metrics = list(chosen[0]["metrics"]["chance"])
            rows = [
                ["set", "questions", "images", "scored by", *metrics, *(f"{name}, mean of kinds" for name in metrics)]
            ]
            for entry in chosen:
                rows += _rows(entry, metrics)
            lines += aligned(rows)
    for entry in results:
        (_, kinds), sentences = details(entry)
        lines += [*sentences, *text_of(kinds, entry["dataset"])]
    return "\n".join(lines)


def details(entry: dict[str, Any]) -> Details:
    """Every way's metrics, and the first metric by kinds of questions, which not every set has."""
    metrics = list(entry["metrics"]["chance"])
    head = ["scored by", *metrics, *(f"{name}, mean of kinds" for name in metrics)]
    rows = [row[3:] for row in _rows(entry, metrics)]
    if not entry["mean_of_kinds"]:
        head, rows = head[: len(metrics) + 1], [row[: len(metrics) + 1] for row in rows]
    ways = Table(f"per cent of {plural(entry['questions'], 'question')}", head, rows)
    return Details([ways, _kinds(entry)], [*_notes(entry), *notes(entry)])


def _rows(entry: dict[str, Any], metrics: Sequence[str]) -> Iterator[list[str]]:
    counts = [
        entry["dataset"],
        count_of(entry["questions"], entry["questions_of_whole_set"]),
        f"{entry['images']:,}",
    ]
    for place, (way, values) in enumerate(entry["metrics"].items()):
        means = entry["mean_of_kinds"].get(way, {})
        yield [
            *(counts if not place else [""] * len(counts)),
            way,
            *(_cell(values[name]) for name in metrics),
            *(_cell(means[name]) if means else "" for name in metrics),
        ]


def _cell(value: float) -> str:
    return f"{100 * value:.1f}"


def _notes(entry: dict[str, Any]) -> Iterator[str]:
    """Sentences about what is left out, and about equal scores."""
    name = entry["dataset"]
    for reason, count in entry["left_out"].items():
        yield f"{name}: left out: {reason} ({count:,})"
    if entry["skipped_questions"]:
        yield f"{name}: left out: {plural(entry['skipped_questions'], 'question')} about pictures that cannot be read"
    for way, count in entry["tied"].items():
        if count:
            yield f"{name}: equal scores decide {plural(count, 'question')} ({way}), all against the model"
    if (
        entry["boxes"]
        and WAYS[1] in entry["metrics"]
        and WAYS[0] in entry["metrics"]
        and WAYS[2] not in entry["metrics"]
    ):
        yield f"{name}: not scored by {WAYS[2]}, since the model's pooling has no keep_tokens"
    if entry["mean_of_kinds"]:
        counted = entry["mean_of_kinds"]["kinds"]
        yield f"{name}: the mean of kinds is over {counted:,} of {plural(len(entry['kinds']), 'kind')}"


def _kinds(entry: dict[str, Any]) -> Table:
    """The first metric by kinds of questions, the most frequent first, of which there are not too many."""
    ways = list(entry["metrics"])
    first = next(iter(entry["metrics"]["chance"]))
    shown = sorted(entry["kinds"].items(), key=lambda item: -item[1]["questions"])
    rows = [
        [printable(kind), f"{values['questions']:,}", *(_cell(values[way][first]) for way in ways)]
        for kind, values in shown[:_MOST_KINDS]
    ]
    more = f" (the {_MOST_KINDS} most frequent of {len(shown):,}; --output has all)" if len(shown) > len(rows) else ""
    return Table(f"{first} by kind{more}", ["kind", "questions", *ways], rows)
