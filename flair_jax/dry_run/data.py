"""A run's data, as far as can be seen in seconds: training data opened, evaluations' first samples decoded."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flair_jax.data.image import open_rgb
from flair_jax.data.sets.classification import ClassificationData
from flair_jax.data.sets.retrieval_data import RetrievalData, read_picture
from flair_jax.data.sets.training import names_of, open_set
from flair_jax.data.shards import expand_shards, is_tars
from flair_jax.data.sources import Source
from flair_jax.data.tar_index_files import read_index
from flair_jax.data.tars import TarSource
from flair_jax.dry_run.batch import FirstBatch
from flair_jax.dry_run.findings import Findings
from flair_jax.errors import DatasetError, plural
from flair_jax.models.flair import Flair
from flair_jax.settings import DataSettings, EvaluationSettings, TrainSettings
from flair_jax.train.evaluation import RunEvaluation
from flair_jax.train.objects import find_sources

_FIRST = 4  # samples of an evaluation that are decoded


class Opened(NamedTuple):
    """Training data.

    Attributes:
      sources: one a data set.
      names: the name of what made them, as in `find_sources`.
      whole: whether they hold all of the data.
    """

    sources: Sequence[Source]
    names: dict[str, str]
    whole: bool


def open_data(found: Findings, settings: TrainSettings, stack: contextlib.ExitStack) -> Opened | None:
    """The training data; None if one of the sets cannot be opened.

    Where tars have no index yet, which takes long to make, the first of their set stands for all of it.

    Args:
      found: gets a note of that, and a problem for each set that cannot be opened.
      settings: of the run.
      stack: at whose end that index goes.

    Raises:
      ConfigError, DatasetError: as `find_sources`.
    """
    if settings.factories.sources is not None:
        sources, names = find_sources(settings)
        return Opened(sources, dict(names), whole=True)
    opened = list[tuple[Source, bool]]()
    for name in (names_of_sets := names_of(settings.data)):
        with found.checking("data"):
            first = _first_of(found, name, settings.data, stack) if is_tars(name) else None
            opened.append((open_set(name, settings.data), True) if first is None else (first, False))
    if len(opened) < len(names_of_sets):
        return None
    return Opened([source for source, _ in opened], {}, all(whole for _, whole in opened))


def _first_of(found: Findings, name: str, data: DataSettings, stack: contextlib.ExitStack) -> TarSource | None:
    """The first of a set's tars if some have no index; else None."""
    shards = expand_shards(name, data.dir)
    missing = [shard for shard in shards if read_index(shard, data.index_dir) is None]
    if not missing:
        return None
    found.remark(
        f"{len(missing):,} of {plural(len(shards), 'tar')} {'has' if len(missing) == 1 else 'have'} no index "
        f"yet, so the number of samples is not known, and only {shards[0]} is looked at; the run makes the "
        "indexes first, or `flair-jax data index` does"
    )
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="flair-jax-"))
    first = TarSource(shards[0], index_dir=folder, processes=1, progress=False)
    first.require_samples()
    return first


def say_captions(found: Findings, batch: FirstBatch, context_length: int) -> None:
    """Says how long the batch's captions are, and what is cut off them.

    Args:
      found: gets it.
      batch: what was read.
      context_length: of the model.
    """
    captions = batch.captions
    counts = np.array([caption.tokens for caption in captions])
    longer, lost = sum(caption.cut > 0 for caption in captions), sum(caption.cut for caption in captions)
    fewest, most, median = int(counts.min()), int(counts.max()), int(np.median(counts))
    tokens = f"{fewest:,} to {most:,} tokens" if fewest < most else f"{most:,} tokens each"
    found.say(
        "captions",
        f"{plural(len(captions), 'caption')} of {plural(len(batch.rows), 'image')}: {tokens} with start and end, "
        f"median {median:,}; {longer / len(captions):.1%} are longer than the context of {context_length}, "
        f"{lost / counts.sum():.1%} of all tokens are cut off",
    )
    if empty := sum(caption.empty for caption in captions):
        found.remark(f"{empty:,} of {plural(len(captions), 'caption')} {'is' if empty == 1 else 'are'} empty")


def check_evaluation(found: Findings, name: str, settings: EvaluationSettings, model: Flair, steps: int | None) -> None:
    """Reads an evaluation's set as the run does at its start, and decodes its first pictures.

    Args:
      found: gets what is found.
      name: in `config.evaluations`; "" for `config.evaluation`.
      settings: of the evaluation.
      model: of the run.
      steps: of the run, if they are known.

    Raises:
      FlairError: if it cannot be read.
    """
    where = f"config.evaluations.{name}" if name else "config.evaluation"
    evaluation = RunEvaluation.from_settings(name, settings, model)
    total = _decode_first(evaluation.data)
    times = "" if steps is None else f", {steps // settings.every_steps + (steps % settings.every_steps > 0):,} in all"
    found.say(
        "evaluation",
        f"{where}: {settings.task}, {settings.dataset}, {plural(total, 'picture')}, every "
        f"{plural(settings.every_steps, 'step')} and "
        f"at the end{times}",
    )


def _decode_first(data: Any) -> int:
    """Decodes the first pictures of an evaluation's set, and returns how many there are."""
    read: Callable[[int], object] = getattr(data, "read", lambda number: None)
    if isinstance(data, RetrievalData):
        total, read = len(data.images), lambda number: open_rgb(read_picture(data.images[number]))
    elif isinstance(data, ClassificationData):
        total, read = len(data.examples), lambda number: open_rgb(data.examples[number].picture)
    else:  # of these, each has one
        total = next(len(getattr(data, each)) for each in ("views", "images", "names") if hasattr(data, each))
    if not total:
        raise DatasetError("the set holds no pictures")
    for number in range(min(_FIRST, total)):
        read(number)
    return total
