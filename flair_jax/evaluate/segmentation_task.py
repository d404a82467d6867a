"""Segmentation as a task of `flair-jax evaluate`: its sets, its result as JSON and as a table."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flair_jax import pages
from flair_jax.data.sets.prompts import read_templates
from flair_jax.data.sets.segmentation import SEGMENTATION_SETS, SegmentationSet
from flair_jax.data.sets.segmentation_data import SegmentationData
from flair_jax.data.sets.segmentation_texts import read_words
from flair_jax.errors import ConfigError, DatasetError, FlairError
from flair_jax.evaluate import report
from flair_jax.evaluate.gallery import PAGE, write_gallery
from flair_jax.evaluate.segmentation import Segmentation, SegmentationSettings, segment
from flair_jax.evaluate.task import Details, Figure, Table, Task
from flair_jax.files import absolute, no_file
from flair_jax.models.config import FlairConfig
from flair_jax.models.flair import Flair
from flair_jax.packages import how_to_install, import_jinja
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever

# Mean IoU in per cent without pooling, as users of the PyTorch release report it; not from the paper. Checkpoint file
# name without ending -> set -> number.
REPORTED_MEAN_IOU: dict[str, dict[str, float]] = {"flair-merged30m": {"voc20": 73.0}}
TERMS = {
    "IoU": "the pixels that are a class's in truth and as predicted, as a share of those that are in either",
    "mean IoU": "the mean over the classes that occur in either",
    "pixel accuracy": "the judged pixels whose class is right",
    "patches": "each patch has the class whose words its local token is most similar to (cosine), without pooling",
    "pooled-patches": "the same after each local token went through the text-conditioned pooling alone",
}


def task(templates: str | None = None, class_names: str | None = None, save: Path | None = None) -> Task:
    """The task.

    Args:
      templates: see `flair_jax.data.sets.prompts.read_templates`; the set's own if None.
      class_names: file of words for the classes instead of the set's own.
      save: folder for pictures of the result, or None.

    Raises:
      FlairError: if the templates cannot be read, or `save` cannot have a page.
    """
    if save and (reason := no_file(save / PAGE)):
        raise ConfigError(f"--save {save}: its {PAGE} {reason}; choose another folder")
    if save and (save / PAGE).exists() and not pages.is_ours(save / PAGE):
        raise ConfigError(
            f"--save {save}: its {PAGE} is of something else, and would be replaced; choose another folder"
        )
    sentences = read_templates(templates) if templates else None

    def load(entry: SegmentationSet, folder: Path) -> SegmentationData:
        data = entry.load(folder)
        if sentences:
            data = dataclasses.replace(data, templates=sentences)
        return dataclasses.replace(data, texts=read_words(class_names, data.classes)) if class_names else data

    return Task(
        "segment",
        SEGMENTATION_SETS,
        load,
        partial(_segment, save),
        result,
        table,
        figures,
        details,
        TERMS,
        _complete,
        (save and str(absolute(save)),),
    )


def _segment(
    save: Path | None,
    model: Flair,
    retriever: Retriever,
    data: SegmentationData,
    settings: SegmentationSettings,
    store: BlockStore,
) -> Segmentation:
    paged = save is not None and _can_have_page(save)
    outcome = segment(model, retriever, data, settings, store, save)
    if save:
        print(f"pictures (original, truth, prediction): {save}")
    if save and paged:
        try:
            print(f"written: {write_gallery(save, data, outcome.metrics, settings.segment_by)}")
        except OSError as error:  # hours of work end here; their figures are worth more than a page
            logging.warning("%s: not written: %s", save / PAGE, error)
    return outcome


def _can_have_page(save: Path) -> bool:
    """Whether the pictures can have a page; says so before the work if not, since they are of use without it."""
    try:
        import_jinja("--save")
    except FlairError:
        print(f"{save} will have no {PAGE}, which needs Jinja2: {how_to_install('html')}")
        return False
    return True


def _complete(
    settings: SegmentationSettings, data: SegmentationData, config: FlairConfig, dataset: str
) -> SegmentationSettings:
    """SegmentationSettings that fit the set and the model, with the set's usual size if none is given."""
    vision = config.vision
    if settings.background_threshold is not None and not data.has_background:
        raise DatasetError(f"--background-threshold: {dataset} has no background")
    if settings.short_side is not None and settings.short_side < vision.image_size:
        raise DatasetError(
            f"--short-side {settings.short_side}: must be at least a window's side, which is {vision.image_size}"
        )
    short_side = settings.short_side or max(data.short_side, vision.image_size)
    return dataclasses.replace(settings, short_side=short_side, templates=data.templates)


def result(
    dataset: str, folder: Path, evaluation: Segmentation, settings: SegmentationSettings, source: dict[str, str]
) -> dict[str, Any]:
    """One set's outcome as plain JSON values."""
    return {
        "dataset": dataset,
        "data_dir": str(folder),
        "images_of_whole_set": SEGMENTATION_SETS[dataset].whole,
        "reported_mean_iou_percent": _reported(source, dataset, settings.segment_by),
        **dataclasses.asdict(evaluation),
    }


def _reported(source: dict[str, str], dataset: str, segment_by: str) -> float | None:
    """What users report for a checkpoint, in per cent, or None; they used no pooling."""
    if segment_by != "patches":
        return None
    return REPORTED_MEAN_IOU.get(Path(source.get("file", "")).stem, {}).get(dataset)


def figures(entry: dict[str, Any]) -> list[Figure]:
    """The mean IoU."""
    others = entry["reported_mean_iou_percent"]
    return [
        Figure("mean IoU", 100 * entry["metrics"]["mean_iou"], others, "users of the PyTorch release" if others else "")
    ]


def table(results: Sequence[dict[str, Any]], settings: SegmentationSettings) -> str:
    """Results as text: per cent of each class and of all, of one set after the other."""
    return "\n\n".join(_table(entry, settings, named=len(results) > 1) for entry in results)


def details(entry: dict[str, Any]) -> Details:
    """The IoU of each class and of all, and the pixel accuracy."""
    metrics = entry["metrics"]
    rows = [[name, "-" if iou is None else f"{100 * iou:.1f}"] for name, iou in metrics["iou"].items()]
    rows.append(["mean IoU", f"{100 * metrics['mean_iou']:.1f}"])
    if entry["reported_mean_iou_percent"] is not None:
        rows.append(["mean IoU reported by users", f"{entry['reported_mean_iou_percent']:.1f}"])
    rows.append(["pixel accuracy", f"{100 * metrics['pixel_accuracy']:.1f}"])
    return Details([Table("IoU in per cent", ["class", "IoU"], rows)], list(report.notes(entry)))


def _table(entry: dict[str, Any], settings: SegmentationSettings, *, named: bool) -> str:
    (shown,), notes = details(entry)
    pictures = report.count_of(entry["images"], entry["images_of_whole_set"])
    head = f"segmentation of {pictures} pictures by {settings.segment_by}, per cent"
    return "\n".join(
        [f"{entry['dataset']}: {head}" if named else head, *report.aligned([shown.head, *shown.rows]), *notes]
    )
