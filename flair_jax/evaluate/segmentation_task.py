"""`flair-jax evaluate --task segment`: one set to a table and a JSON file."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flair_jax.checkpoint import load, read_description, read_model_config
from flair_jax.data.sets.prompts import read_templates
from flair_jax.data.sets.segmentation import SegmentationSet, find_segmentation_set
from flair_jax.data.sets.segmentation_data import SegmentationData
from flair_jax.data.sets.segmentation_texts import read_words
from flair_jax.errors import DatasetError
from flair_jax.evaluate import report
from flair_jax.evaluate.segmentation import Segmentation, SegmentationSettings, segment
from flair_jax.files import absolute, expand
from flair_jax.models.config import VisionConfig
from flair_jax.models.flair import Flair
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.scorer import Retriever
from flair_jax.weights.locate import locate, reported_name

# Mean IoU in per cent without pooling, as users of the PyTorch release report it; not from the paper. Checkpoint file
# name without ending -> set -> number.
REPORTED_MEAN_IOU: dict[str, dict[str, float]] = {"flair-merged30m": {"voc20": 73.0}}


def segment_checkpoint(
    checkpoint: str | Path,
    dataset: str,
    data_dir: Path,
    settings: SegmentationSettings,
    *,
    dtype: str,
    output: Path | None,
    model: Flair | None = None,
    templates: str | None = None,
    class_names: str | None = None,
    save: Path | None = None,
) -> dict[str, Any]:
    """Segments a set with a checkpoint, prints a table and writes `output`.

    Args:
      checkpoint: as `flair_jax.load` takes it.
      dataset: a name in `SEGMENTATION_SETS`.
      data_dir: the set's folder, or one above.
      settings: how.
      dtype: compute dtype.
      output: JSON file to write, or None. While the run is at work, finished blocks are kept beside it.
      model: the checkpoint's model, if it has modules of its own; see `flair_jax.load`. `dtype` is then its config's.
      templates: see `flair_jax.data.sets.prompts.read_templates`; the set's own if None.
      class_names: file of words for the classes instead of the set's own.
      save: folder for pictures of the result, or None.

    Returns:
      The result, as written.

    Raises:
      FlairError: if the checkpoint, the set, its pictures or a file cannot be read.
    """
    entry = find_segmentation_set(dataset)
    if output and output.is_dir():
        raise DatasetError(f"--output {output}: is a folder; name a JSON file")
    if save and save.exists() and not save.is_dir():
        raise DatasetError(f"--save {save}: is a file; name a folder")
    data = _with_words(entry.load(data_dir), templates, class_names)
    files = locate(checkpoint)
    settings = _complete(settings, data, read_model_config(files).vision, dataset)
    model, params = load(files, model=model, dtype=dtype)
    source = read_description(files).get("source", {})
    environment = report.environment(reported_name(checkpoint, files), source, model.config.dtype, settings)
    environment["settings"]["templates"] = list(data.templates)
    work = report.identity(files, environment, str(data_dir), data.digest(), save and str(absolute(save)))
    unfinished = output and expand(f"{output}.partial") / f"{dataset}-{work}"
    print(f"{dataset}: {data_dir}, {len(data.names):,} pictures, {len(data.classes)} classes", flush=True)
    outcome = segment(model, Retriever(model, params), data, settings, BlockStore(unfinished), save)
    result = _result(entry, data_dir, outcome, settings, source)
    if outcome.skipped:
        print(f"left out {len(outcome.skipped)} broken picture(s):", *outcome.skipped, sep="\n  ")
    print(_table(result, settings))
    if output:
        report.write_json(output, report.document([result], environment))
        shutil.rmtree(f"{output}.partial", ignore_errors=True)
        print(f"written: {output}")
    if save:
        print(f"pictures (original, truth, prediction): {save}")
    return result


def _with_words(data: SegmentationData, templates: str | None, class_names: str | None) -> SegmentationData:
    """The data with a user's templates and words."""
    if templates:
        data = dataclasses.replace(data, templates=read_templates(templates))
    if class_names:
        data = dataclasses.replace(data, texts=read_words(class_names, data.classes))
    return data


def _complete(
    settings: SegmentationSettings, data: SegmentationData, vision: VisionConfig, dataset: str
) -> SegmentationSettings:
    """SegmentationSettings that fit the set and the model, with the set's usual size if none is given."""
    if settings.background_threshold is not None and not data.has_background:
        raise DatasetError(f"--background-threshold: {dataset} has no background")
    if settings.short_side is not None and settings.short_side < vision.image_size:
        raise DatasetError(
            f"--short-side {settings.short_side}: must be at least a window's side, which is {vision.image_size}"
        )
    return dataclasses.replace(settings, short_side=settings.short_side or max(data.short_side, vision.image_size))


def _result(
    entry: SegmentationSet,
    data_dir: Path,
    outcome: Segmentation,
    settings: SegmentationSettings,
    source: dict[str, str],
) -> dict[str, Any]:
    """The set's outcome as plain JSON values."""
    return {
        "dataset": entry.name,
        "data_dir": str(data_dir),
        "images_of_whole_set": entry.whole,
        "reported_mean_iou_percent": _reported(source, entry.name, settings.segment_by),
        **dataclasses.asdict(outcome),
    }


def _reported(source: dict[str, str], dataset: str, segment_by: str) -> float | None:
    """What users report for a checkpoint, in per cent, or None; they used no pooling."""
    if segment_by != "patches":
        return None
    return REPORTED_MEAN_IOU.get(Path(source.get("file", "")).stem, {}).get(dataset)


def _table(result: dict[str, Any], settings: SegmentationSettings) -> str:
    """Per cent of each class and of all, as text."""
    metrics = result["metrics"]
    rows: list[Sequence[str]] = [["class", "IoU"]]
    rows += [[name, "-" if iou is None else f"{100 * iou:.1f}"] for name, iou in metrics["iou"].items()]
    rows.append(["mean IoU", f"{100 * metrics['mean_iou']:.1f}"])
    if result["reported_mean_iou_percent"] is not None:
        rows.append(["mean IoU reported by users", f"{result['reported_mean_iou_percent']:.1f}"])
    rows.append(["pixel accuracy", f"{100 * metrics['pixel_accuracy']:.1f}"])
    pictures = report.count_of(result["images"], result["images_of_whole_set"])
    head = f"segmentation of {pictures} pictures by {settings.segment_by}, per cent"
    return "\n".join([head, *report.aligned(rows), *report.notes(result)])
