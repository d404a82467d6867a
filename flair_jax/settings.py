"""A training run's settings as frozen dataclasses, checked before anything is compiled. Imports no JAX.

`configs/default.py` says what each field means; names and nesting are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flair_jax.errors import ConfigError, FlairError
from flair_jax.fields import read_fields
from flair_jax.models.config import FlairConfig
from flair_jax.models.presets import read_config

SCHEDULES = ("cosine", "constant", "constant-cooldown")
TOWERS = ("image", "text")
LOSS_TERMS = ("tcs", "mps")
_MOST_CAPTIONS = 64
_MOST_WORKERS = 1024
_MOST_STEPS = 2**31 - 1  # the optimiser's counter has 32 bits


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The loss."""

    terms: tuple[str, ...]
    group_size: int
    pairs_per_block: int


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    learning_rate: float
    schedule: str
    warmup_steps: int
    cooldown_steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Sizes of the mesh's axes; one may be -1."""

    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Training data."""

    name: str
    dir: str
    split: str
    index_dir: str
    weights: tuple[float, ...]
    epoch_samples: int
    workers: int
    merged_sentences: int
    crop_scale: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When to save, and what to keep."""

    every_steps: int
    keep: int
    keep_every_steps: int


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Retrieval evaluation while training."""

    every_steps: int
    dataset: str
    dir: str
    mode: str
    top_k: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """All of a training run."""

    model: str
    init: str
    lock: tuple[str, ...]
    dtype: str
    remat: str
    unroll: int
    seed: int
    batch_size: int
    captions_per_image: int
    epochs: float
    steps: int
    accumulation_steps: int
    loss: LossSettings
    optimizer: OptimizerSettings
    mesh: MeshSettings
    data: DataSettings
    checkpoint: CheckpointSettings
    log_every_steps: int
    wandb_project: str
    evaluation: EvaluationSettings
    compilation_cache: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainSettings:
        """Reads an `ml_collections.ConfigDict`, or any mapping with the fields of `configs/default.py`.

        Raises:
          ConfigError: if a field is missing or unknown, or its value cannot be.
        """
        settings: TrainSettings = read_fields(cls, config, "config")
        settings._check()
        return settings

    @property
    def group_size(self) -> int:
        """Images in a loss group; the whole batch if `loss.group_size` is 0."""
        return self.loss.group_size or self.batch_size

    def model_config(self) -> FlairConfig:
        """The model with this run's compute settings."""
        try:
            model = read_config(self.model)
        except (FlairError, OSError) as error:  # OSError: a name that no file can have
            raise ConfigError(f"config.model: {error}") from None
        try:
            return dataclasses.replace(model, dtype=self.dtype, remat=self.remat, unroll=self.unroll)
        except ConfigError as error:  # it names the field
            raise ConfigError(f"config.{error}") from None

    def total_steps(self, samples: int) -> int:
        """Steps of the whole run on so many samples, if no epoch is stated; an epoch's last step is a full batch.

        Raises:
          ConfigError: if they are more than can be counted.
        """
        in_epoch = math.ceil((self.data.epoch_samples or samples) / self.batch_size)
        steps = self.steps or math.ceil(self.epochs * in_epoch)
        if steps > _MOST_STEPS:
            raise ConfigError(
                f"config.{'steps' if self.steps else f'epochs={self.epochs:g}'}: {steps:.3g} steps are too many"
            )
        return steps

    def _check(self) -> None:
        positive = {
            "batch_size": self.batch_size,
            "captions_per_image": self.captions_per_image,
            "accumulation_steps": self.accumulation_steps,
            "loss.pairs_per_block": self.loss.pairs_per_block,
            "optimizer.learning_rate": self.optimizer.learning_rate,
            "optimizer.eps": self.optimizer.eps,
            "data.merged_sentences": self.data.merged_sentences,
            "checkpoint.every_steps": self.checkpoint.every_steps,
            "checkpoint.keep": self.checkpoint.keep,
            "log_every_steps": self.log_every_steps,
            "evaluation.batch_size": self.evaluation.batch_size,
            "evaluation.top_k": self.evaluation.top_k,
            "epochs or steps": self.steps or self.epochs,
        }
        not_negative = {
            "steps": self.steps,
            "seed": self.seed,
            "loss.group_size": self.loss.group_size,
            "optimizer.warmup_steps": self.optimizer.warmup_steps,
            "optimizer.cooldown_steps": self.optimizer.cooldown_steps,
            "optimizer.weight_decay": self.optimizer.weight_decay,
            "optimizer.clip_norm": self.optimizer.clip_norm,
            "data.epoch_samples": self.data.epoch_samples,
            "data.workers": self.data.workers,
            "checkpoint.keep_every_steps": self.checkpoint.keep_every_steps,
            "evaluation.every_steps": self.evaluation.every_steps,
        }
        for name, value in not_negative.items():
            if not value >= 0:
                raise ConfigError(f"config.{name}={value} must not be negative")
        for name, value in positive.items():
            if not np.float32(value) > 0:  # as the devices see it
                raise ConfigError(f"config.{name}={value} must be greater than 0")
        choices = (
            ("optimizer.schedule", (self.optimizer.schedule,), SCHEDULES),
            ("lock", self.lock, TOWERS),
            ("loss.terms", self.loss.terms, LOSS_TERMS),
        )
        for name, chosen, known in choices:
            if not set(chosen) <= set(known) or len(set(chosen)) != len(chosen):
                raise ConfigError(f"config.{name}={chosen}: each must be one of {', '.join(known)}, and only once")
        if not self.loss.terms:
            raise ConfigError("config.loss.terms is empty; choose tcs, mps or both")
        for name, value in (("b1", self.optimizer.b1), ("b2", self.optimizer.b2)):
            if not 0 <= np.float32(value) < 1:
                raise ConfigError(f"config.optimizer.{name}={value} must be from 0 to below 1")
        if self.captions_per_image > _MOST_CAPTIONS:
            raise ConfigError(
                f"config.captions_per_image={self.captions_per_image}: recaptioned sets have some 10 to 40 sentences "
                f"a picture, so more than {_MOST_CAPTIONS} captions would repeat them; FLAIR was trained with 8 and 10"
            )
        if self.batch_size % self.group_size:
            raise ConfigError(
                f"config.batch_size={self.batch_size} is not a multiple of config.loss.group_size={self.group_size}"
            )
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                f"config.batch_size={self.batch_size} is not a multiple of "
                f"config.accumulation_steps={self.accumulation_steps}"
            )
        if not all(weight > 0 for weight in self.data.weights):
            raise ConfigError(f"config.data.weights={self.data.weights} must all be greater than 0")
        low, high = self.data.crop_scale
        if not 0 < low <= high <= 1:
            raise ConfigError(f"config.data.crop_scale={self.data.crop_scale} must be 0 < from <= to <= 1")
        if self.data.workers > _MOST_WORKERS:
            raise ConfigError(
                f"config.data.workers={self.data.workers}: each is a process; {_MOST_WORKERS} are the most"
            )
        self.total_steps(1)
        self.model_config()
