"""A training run's settings as frozen dataclasses, checked before anything is compiled. Imports no JAX.

`configs/default.py` explains each field; names and nesting are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from flair_jax.errors import ConfigError, FlairError
from flair_jax.fields import read_fields
from flair_jax.models.config import COMPUTE_SETTINGS, FlairConfig
from flair_jax.models.presets import read_config
from flair_jax.setting_checks import problems

_MOST_STEPS = 2**31 - 1  # the optimiser's counter has 32 bits


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The loss."""

    terms: tuple[str, ...]
    group_size: int
    pairs_per_block: int
    weights: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class PackingSettings:
    """How captions lie in rows."""

    row_tokens: int = 0
    tokens_per_caption: float = 45.0


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser, its schedule, and the average of the parameters."""

    learning_rate: float
    schedule: str
    warmup_steps: int
    cooldown_steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float
    name: str = "adamw"
    layer_decay: float = 1.0
    image_rate: float = 1.0
    text_rate: float = 1.0
    ema_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class UnlockedGroups:
    """How many groups of parameters of each tower in `lock`, from the end, are trained all the same."""

    image: int = 0
    text: int = 0


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
    """When to save, and which checkpoints to keep."""

    every_steps: int
    keep: int
    keep_every_steps: int


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """An evaluation while training."""

    every_steps: int
    dataset: str
    dir: str
    mode: str
    top_k: int
    batch_size: int
    task: str = "retrieval"
    templates: str = ""


# A function that makes one of the objects that training takes.
Factory = Callable[["TrainSettings"], object]


@dataclasses.dataclass(frozen=True)
class Factories:
    """Functions of a configuration file that make objects for training to use instead of its own; see
    `flair_jax.train.train`.

    Each is called with the run's settings. For all but `sources`, whose samples decide it, `steps` is then the number
    of steps of the whole run.
    """

    model: Factory | None = None
    optimizer: Factory | None = None
    loss: Factory | None = None
    sources: Factory | None = None


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """All of a training run.

    `extra` holds the fields that a configuration file adds for its own factories, as JSON values: numbers, texts,
    booleans, None, tuples of them, and further groups as dicts.
    """

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
    packing: PackingSettings = PackingSettings()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    factories: Factories = Factories()
    attention: str = "auto"
    residual_dtype: str = "float32"
    profile_steps: tuple[int, ...] = ()
    unlocked_groups: UnlockedGroups = UnlockedGroups()
    patch_dropout: float = 0.0
    resume: str = ""
    evaluations: dict[str, EvaluationSettings] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainSettings:
        """Reads an `ml_collections.ConfigDict`, or any mapping with the fields of `configs/default.py`.

        Raises:
          ConfigError: if a field is missing or unknown, or its value is invalid.
        """
        settings: TrainSettings = read_fields(cls, config, "config")
        settings._check()
        return settings

    @property
    def group_size(self) -> int:
        """Images in a loss group; the whole batch if `loss.group_size` is 0."""
        return self.loss.group_size or self.batch_size

    def patches(self, model: FlairConfig) -> int:
        """How many patches of an image the tower sees in training: the share that is kept, rounded down; at least one.

        As `PatchDropout` of open_clip's src/open_clip/transformer.py counts them.
        """
        return max(1, int(model.vision.grid**2 * (1 - self.patch_dropout)))

    def model_config(self) -> FlairConfig:
        """The model with this run's compute settings.

        Raises:
          ConfigError: if `model` is neither a preset nor a JSON file of one, or a compute setting is invalid.
        """
        try:
            model = read_config(self.model)
        except (FlairError, OSError) as error:  # OSError: a name that no file can have
            raise ConfigError(f"config.model: {error}") from None
        try:
            return dataclasses.replace(model, **{name: getattr(self, name) for name in COMPUTE_SETTINGS})
        except ConfigError as error:  # it names the field
            raise ConfigError(f"config.{error}") from None

    def total_steps(self, samples: int) -> int:
        """Steps of the whole run; epochs have `data.epoch_samples` or else all samples, and round up to full batches.

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
        """Raises ConfigError for the first setting that is invalid."""
        for problem in problems(self):
            raise ConfigError(f"config.{problem}")
        self.total_steps(1)
        self.model_config()
