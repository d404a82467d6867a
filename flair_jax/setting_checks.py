"""What the settings of a training run may be, and which do not go together. Imports no JAX."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from flair_jax.fields import did_you_mean

if TYPE_CHECKING:
    from flair_jax.settings import LossSettings, TrainSettings

SCHEDULES = ("cosine", "constant", "constant-cooldown")
OPTIMIZER_NAMES = ("adamw", "lion", "muon", "adafactor")
TOWERS = ("image", "text")
FEWEST_TOKENS = 8  # of a caption's budget
_MOST_CAPTIONS = 64
_MOST_WORKERS = 1024
_MOST_TEXTS = 2**31 - 1  # in a step: they are counted in int32

# Dotted names of numbers, the condition they must meet, and that in words.
_RANGES: tuple[tuple[tuple[str, ...], Callable[[np.float32], bool], str], ...] = (
    (
        (
            *("steps", "seed", "loss.group_size", "packing.row_tokens"),
            *("unlocked_groups.image", "unlocked_groups.text"),
            *(f"optimizer.{name}" for name in ("warmup_steps", "cooldown_steps", "weight_decay", "clip_norm")),
            *("data.epoch_samples", "data.workers", "checkpoint.keep_every_steps", "evaluation.every_steps"),
        ),
        lambda value: bool(value >= 0),
        "not be negative",
    ),
    (
        (
            *("batch_size", "captions_per_image", "accumulation_steps", "loss.pairs_per_block"),
            *(f"optimizer.{name}" for name in ("learning_rate", "eps", "layer_decay", "image_rate", "text_rate")),
            "data.merged_sentences",
            *("checkpoint.every_steps", "checkpoint.keep", "log_every_steps"),
            *("evaluation.batch_size", "evaluation.top_k"),
        ),
        lambda value: bool(value > 0),
        "be greater than 0",
    ),
    (("optimizer.layer_decay",), lambda value: bool(value <= 1), "be at most 1"),
    (("packing.tokens_per_caption",), lambda value: bool(value >= FEWEST_TOKENS), f"be at least {FEWEST_TOKENS}"),
    (
        ("optimizer.b1", "optimizer.b2", "optimizer.ema_decay", "patch_dropout"),
        lambda value: bool(0 <= value < 1),
        "be from 0 to below 1",
    ),
)

# Settings that are one or several of a few words.
_CHOICES = {"optimizer.name": OPTIMIZER_NAMES, "optimizer.schedule": SCHEDULES, "lock": TOWERS}


def problems(settings: TrainSettings) -> Iterator[str]:
    """What is invalid or does not go together, in words that begin with the setting's name."""
    for names, fits, demand in _RANGES:
        for name in names:
            value = operator.attrgetter(name)(settings)
            if not fits(np.float32(value)):  # as the devices see it
                yield f"{name}={value} must {demand}"
    for name, known in _CHOICES.items():
        value = operator.attrgetter(name)(settings)
        if isinstance(value, str):
            if value not in known:
                yield f"{name}={value!r} must be one of {', '.join(known)}{did_you_mean(value, known)}"
        elif not set(value) <= set(known) or len(set(value)) != len(value):
            yield f"{name}={value}: each must be one of {', '.join(known)}, and only once"
    yield from _contradictions(settings)


def _contradictions(settings: TrainSettings) -> Iterator[str]:
    if settings.steps >= 0 and not np.float32(settings.steps or settings.epochs) > 0:
        yield f"epochs or steps={settings.steps or settings.epochs} must be greater than 0"
    if (optimizer := settings.optimizer).cooldown_steps and optimizer.schedule != "constant-cooldown":
        yield (
            f"optimizer.cooldown_steps={optimizer.cooldown_steps}: config.optimizer.schedule={optimizer.schedule} has "
            "none; set it to constant-cooldown, or the steps to 0"
        )
    yield from _problems_of_loss(settings.loss)
    for name, each in settings.evaluations.items():
        if each.every_steps < 0 or each.top_k < 1 or each.batch_size < 1:
            yield (
                f"evaluations.{name}: every_steps={each.every_steps} must not be negative, top_k={each.top_k} and "
                f"batch_size={each.batch_size} be greater than 0"
            )
    if settings.init and settings.resume:
        yield f"resume={settings.resume} and config.init={settings.init}: a run starts from one of them"
    for tower in set(TOWERS) - set(settings.lock):
        if groups := getattr(settings.unlocked_groups, tower):
            yield f"unlocked_groups.{tower}={groups}: config.lock={settings.lock} does not lock that tower"
    if settings.captions_per_image > _MOST_CAPTIONS:
        yield (
            f"captions_per_image={settings.captions_per_image}: recaptioned sets have some 10 to 40 sentences "
            f"a picture, so more than {_MOST_CAPTIONS} captions would repeat them; FLAIR was trained with 8 and 10"
        )
    for name, part in (("loss.group_size", settings.group_size), ("accumulation_steps", settings.accumulation_steps)):
        if part > 0 and settings.batch_size % part:
            yield f"batch_size={settings.batch_size} is not a multiple of config.{name}={part}"
    if (texts := settings.batch_size * settings.captions_per_image) > _MOST_TEXTS:
        yield (
            f"batch_size={settings.batch_size} with config.captions_per_image={settings.captions_per_image} gives "
            f"{texts:,} texts in a step; the most are {_MOST_TEXTS:,}"
        )
    if (window := settings.profile_steps) and not (len(window) == 2 and 1 <= window[0] <= window[1]):
        yield f"profile_steps={window} must be (first, last) with 1 <= first <= last, or ()"
    if not all(weight > 0 for weight in settings.data.weights):
        yield f"data.weights={settings.data.weights} must all be greater than 0"
    low, high = settings.data.crop_scale
    if not 0 < low <= high <= 1:
        yield f"data.crop_scale={settings.data.crop_scale} must be 0 < from <= to <= 1"
    if settings.data.workers > _MOST_WORKERS:
        yield f"data.workers={settings.data.workers}: each is a process; the most are {_MOST_WORKERS}"


def _problems_of_loss(loss: LossSettings) -> Iterator[str]:
    """The names of terms are looked up when the loss is made: its table may have others."""
    terms, weights = loss.terms, loss.weights
    if not terms:
        yield "loss.terms is empty; choose tcs, mps or both"
    if len(set(terms)) != len(terms):
        yield f"loss.terms={terms}: each may be there only once"
    if weights and len(weights) != len(terms):
        yield f"loss.weights={weights} must have one factor for each of config.loss.terms={terms}, or be ()"
    if weights and not (all(weight >= 0 for weight in weights) and np.float32(sum(weights)) > 0):
        yield f"loss.weights={weights} must not be negative, nor all 0"
