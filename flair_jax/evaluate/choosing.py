"""Whether a model tells true captions from altered ones: read, embed, score, and compare."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flair_jax.data.sets.choice_data import ChoiceData
from flair_jax.errors import DatasetError, FlairError
from flair_jax.evaluate.choosing_metrics import ONE_PICTURE, SEVERAL_PICTURES, chance, judge
from flair_jax.evaluate.choosing_scores import WAYS, CaptionScorer, Picture, read_view, score_rows
from flair_jax.models.flair import Flair
from flair_jax.models.pooling import Pooling
from flair_jax.progress import ProgressBar
from flair_jax.scoring.blocks import BlockStore
from flair_jax.scoring.embedding import CutOff, check_broken, compute_in_blocks, cut_off, embed_texts
from flair_jax.scoring.scorer import Retriever


@dataclasses.dataclass(frozen=True)
class ChooseSettings:
    """How to evaluate.

    Attributes:
      mode: one of "global" and "text-conditioned", to score by it alone; None for all of `WAYS` that there are.
      batch_size: images, and likewise captions, embedded at once over all devices.
      skip_broken: leave out questions about pictures that cannot be read, instead of failing.

    Raises:
      FlairError: if the mode is none of these.
    """

    mode: str | None = None
    batch_size: int = 64
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (None, *WAYS[:2]):
            raise FlairError(f"--mode {self.mode} is not for --task choose; choose {' or '.join(WAYS[:2])}")


@dataclasses.dataclass(frozen=True)
class Choosing:
    """The outcome.

    Attributes:
      metrics: one of `WAYS`, or "chance" -> metric -> share of the questions, from 0 to 1. With one picture a question
        the metric is `accuracy`, with several they are `text`, `image` and `group`; see `choosing_metrics.judge`.
      kinds: the same for the questions of each kind, with their number as `questions`.
      tied: one of `WAYS` -> number of questions that equal scores decided, against the model.
      images: number of pictures, or of boxes in them.
      questions: number of questions.
      captions: number of different captions.
      boxes: whether the questions are about boxes.
      left_out: how many of what the set has besides, such as questions that are not asked.
      cut_off: how much of the captions exceeds the model's context.
      skipped: messages about pictures that could not be read.
      skipped_questions: how many questions are about these.
      seconds: wall time.
    """

    metrics: dict[str, dict[str, float]]
    kinds: dict[str, dict[str, Any]]
    tied: dict[str, int]
    images: int
    questions: int
    captions: int
    boxes: bool
    left_out: dict[str, int]
    cut_off: CutOff
    skipped: list[str]
    skipped_questions: int
    seconds: float


def choose(
    model: Flair, retriever: Retriever, data: ChoiceData, settings: ChooseSettings, store: BlockStore
) -> Choosing:
    """Evaluates one set, with progress bars on stderr.

    Args:
      model: for its image size and context length.
      retriever: the model on its devices.
      data: pictures, captions and answers.
      settings: how.
      store: finished blocks go there; those of an earlier, stopped run are taken from there. Emptied at the end.

    Raises:
      DatasetError: listing the pictures that could not be read.
    """
    start, ways = time.monotonic(), _ways(model, data, settings)

    def embed() -> np.ndarray:
        with ProgressBar(total=len(data.texts), description="captions", unit="caption") as bar:
            return embed_texts(model, retriever, data.texts, settings.batch_size, bar)

    features = store.get_or_compute("texts", embed)
    scorer = CaptionScorer(retriever, jax.jit(partial(score_rows, model, ways)), ways, settings.batch_size)
    blocks, broken = compute_in_blocks(
        range(len(data.views)),
        partial(read_view, data, model.config.vision, "box-tokens" in ways),
        partial(_score, scorer, features, max(map(len, data.rows)), max(map(len, data.owners))),
        store,
        size=settings.batch_size,
        skip_broken=settings.skip_broken,
    )
    check_broken(broken, len(data.views), skip=settings.skip_broken)
    found = np.concatenate([np.asarray(block.read()) for block in blocks])
    questions, outcomes = _judge_all(data, [n for n in range(len(data.views)) if n not in broken], found)
    store.remove()
    if not questions:
        raise DatasetError("no question has all its pictures: some of each cannot be read; mend them")
    several = any(row.view for rows in data.rows for row in rows)
    means = partial(_means, (*ways, "chance"), SEVERAL_PICTURES if several else ONE_PICTURE)
    return Choosing(
        means(outcomes),
        {
            kind: {"questions": len(places), **means(outcomes[places])}
            for kind, places in _by_kind([data.kinds[question] for question in questions]).items()
        },
        dict(zip(ways, outcomes[:, :-1, 3].sum(axis=0, dtype=int).tolist(), strict=True)),
        len(data.views) - len(broken),
        len(questions),
        len(data.texts),
        data.boxed,
        data.left_out,
        cut_off(data.texts, model.config.text),
        list(broken.values()),
        len(data.owners) - len(questions),
        time.monotonic() - start,
    )


def _ways(model: Flair, data: ChoiceData, settings: ChooseSettings) -> tuple[str, ...]:
    if settings.mode is not None:
        return (settings.mode,)
    can = type(model.module.pooling).keep_tokens is not Pooling.keep_tokens
    return WAYS if data.boxed and can else WAYS[:2]


def _score(
    scorer: CaptionScorer, features: Float[np.ndarray, "N D"], most: int, columns: int, pictures: Sequence[Picture]
) -> Float[np.ndarray, "B most W C"]:
    """The scores of each view's rows; NaN behind the last."""
    result = np.full((len(pictures), most, len(scorer.ways), columns), np.nan, np.float32)
    scores, start = scorer(pictures, np.asarray(features), columns), 0
    for place, picture in zip(result, pictures, strict=True):
        place[: len(picture.rows)] = scores[start : start + len(picture.rows)]
        start += len(picture.rows)
    return result


def _judge_all(
    data: ChoiceData, views: Sequence[int], scores: Float[np.ndarray, "V most W C"]
) -> tuple[list[int], Float[np.ndarray, "Q W+1 4"]]:
    """The questions of which all views could be read, and for each way its outcome, then that of chance."""
    by_question: dict[int, dict[int, np.ndarray]] = {}
    needed: dict[int, int] = {}
    for rows in data.rows:
        for row in rows:
            needed[row.question] = needed.get(row.question, 0) + 1
    for view, found in zip(views, scores, strict=True):
        for row, of_row in zip(data.rows[view], found, strict=False):
            by_question.setdefault(row.question, {})[row.view] = of_row
    complete = [question for question in sorted(by_question) if len(by_question[question]) == needed[question]]
    outcomes = np.empty((len(complete), scores.shape[2] + 1, 4), np.float64)
    for outcome, question in zip(outcomes, complete, strict=True):
        owners = data.owners[question]
        of_views = [of_view for _, of_view in sorted(by_question[question].items())]
        outcome[:-1] = judge(np.stack(of_views, axis=1)[..., : len(owners)], owners)
        outcome[-1] = (*chance(owners, len(of_views)), 0)
    return complete, outcomes


def _by_kind(kinds: Sequence[str]) -> dict[str, list[int]]:
    """The places of each kind, in the order of their names; what has no kind is left out."""
    places: dict[str, list[int]] = {kind: [] for kind in sorted(set(kinds)) if kind}
    for place, kind in enumerate(kinds):
        if kind:
            places[kind].append(place)
    return places


def _means(
    ways: Sequence[str], metrics: Sequence[str], outcomes: Float[np.ndarray, "Q W 4"]
) -> dict[str, dict[str, float]]:
    """The mean of each metric by each way; with one picture a question, the text score is the accuracy."""
    means = outcomes.mean(axis=0).tolist()
    return {way: dict(zip(metrics, values, strict=False)) for way, values in zip(ways, means, strict=True)}
