"""What makes a run this run: the settings that may change when it resumes, and those that may not. Imports no JAX."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from flair_jax.configs.default import get_config
from flair_jax.models.config import COMPUTE_SETTINGS, FlairConfig, TextConfig, VisionConfig, is_convention
from flair_jax.models.description import config_from_json
from flair_jax.settings import Factories, TrainSettings

# With another value of these, resuming is not the same as never having stopped: the samples, the loss, the optimiser or
# the rounding of the steps to come would be others. `samples` is how many the data has; the model's sizes belong here
# too, whatever the name or file that they come from.
IDENTITY = (
    *("dtype", "residual_dtype", "seed", "batch_size", "captions_per_image", "samples", "patch_dropout"),
    *("data.name", "data.split", "data.weights", "data.merged_sentences", "data.crop_scale"),
    *("lock", "unlocked_groups.image", "unlocked_groups.text", "loss.terms", "loss.weights", "loss.group_size"),
    *(f"optimizer.{name}" for name in ("learning_rate", "schedule", "warmup_steps", "clip_norm")),
    *(f"optimizer.{name}" for name in ("name", "b1", "b2", "eps", "weight_decay")),
    *(f"optimizer.{name}" for name in ("layer_decay", "image_rate", "text_rate", "ema_decay")),
)

# Of the optimiser's settings, those that the first checkpoints cannot have told of.
_YOUNGER = ("name", "layer_decay", "image_rate", "text_rate", "ema_decay")

# These say how long the run is, and when its cool-down begins. They may change as long as no step that is done would
# have had another learning rate: with "constant" always, with "constant-cooldown" before the cool-down, with "cosine"
# only if the number of steps stays.
LENGTH = ("epochs", "steps", "data.epoch_samples", "optimizer.cooldown_steps")

# These change nothing that is trained: names of things that are compared by their contents, or were used up by step 1
# (`model`, `init`), where things lie, how the work is divided, what is saved and logged and how often.
FREE = (
    *("model", "init", "resume", "remat", "unroll", "attention", "accumulation_steps", "loss.pairs_per_block"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor", "packing.row_tokens", "packing.tokens_per_caption"),
    *("data.dir", "data.index_dir", "data.workers"),
    *("checkpoint.every_steps", "checkpoint.keep", "checkpoint.keep_every_steps"),
    *("log_every_steps", "profile_steps", "wandb_project", "compilation_cache", "evaluations"),
    *(
        f"evaluation.{name}"
        for name in ("every_steps", "task", "dataset", "dir", "mode", "top_k", "templates", "batch_size")
    ),
)

# Groups whose fields all belong to the identity: a configuration's own fields, and its objects in place of ours.
OPEN = ("extra", "factories.model", "factories.optimizer", "factories.loss", "factories.sources")
_OPEN_GROUPS = tuple({f"{name.partition('.')[0]}." for name in OPEN})

# What the first checkpoints' runs had and did not record: whether that has changed is not known.
_ONCE_UNRECORDED = {
    *(*FREE, *LENGTH, "dtype", "data.merged_sentences", "data.crop_scale", "loss.terms", "loss.group_size"),
    *(f"optimizer.{name}" for name in ("learning_rate", "schedule", "warmup_steps", "clip_norm")),
    *(f"optimizer.{name}" for name in ("b1", "b2", "eps", "weight_decay")),
}

_INITIAL = ("init", "resume", "model.init_logit_scale", "model.init_logit_bias")
_MODEL_SIZES = {
    f"model.{prefix}{field.name}"
    for prefix, kind in (("", FlairConfig), ("vision.", VisionConfig), ("text.", TextConfig))
    for field in dataclasses.fields(kind)
    if field.type in ("int", "float") and not is_convention(field)
}.difference(_INITIAL)


class _NotSet:
    """A field that a configuration does not have."""

    def __repr__(self) -> str:
        return "not set"


_NOT_SET = _NotSet()


class Change(NamedTuple):
    """A setting that has changed.

    Attributes:
      name: as on the command line, without `config.`.
      was: the value with which the checkpoint was saved.
      now: the value that is asked for.
      of_identity: whether it makes the run another one.
    """

    name: str
    was: Any
    now: Any
    of_identity: bool

    @property
    def of_model_size(self) -> bool:
        """Whether it changes the model's size, so that no state of the run can be kept."""
        return self.name in _MODEL_SIZES

    def __str__(self) -> str:
        group, _, kind = self.name.partition(".")
        if group == "factories":
            return f"the {kind} was {self.was or 'the standard one'}, is {self.now or 'the standard one'}"
        name = "the number of samples" if self.name == "samples" else f"config.{self.name}"
        unused = " (of no effect: the parameters are the checkpoint's)" if self.name in _INITIAL else ""
        return f"{name} was {self.was!r}, is {self.now!r}{unused}"


def describe_run(
    settings: TrainSettings,
    samples: int,
    model: FlairConfig | None = None,
    objects: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """All that a run is, as JSON values by name: its settings, its model, the samples of its data, and its steps.

    Args:
      settings: of the run.
      samples: how many the data has.
      model: that of the settings if not given.
      objects: qualified names of its own model, optimizer, loss and sources, by kind; none for standard ones.
    """
    sizes = dataclasses.asdict(model or settings.model_config())
    plain = dataclasses.replace(settings, extra={}, factories=Factories())
    described = {
        **_flat(dataclasses.asdict(plain)),
        **_flat(settings.extra, "extra."),
        **{f"factories.{kind.name}": objects.get(kind.name, "") for kind in dataclasses.fields(Factories)},
        **_flat({name: value for name, value in sizes.items() if name not in COMPUTE_SETTINGS}, "model."),
        "samples": samples,
        "total_steps": settings.total_steps(samples),
    }
    return dict(json.loads(json.dumps(described)))  # tuples are lists in a checkpoint


def from_earlier(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The run's description in checkpoints from before they had all settings, in the form of `describe_run`.

    Raises:
      ConfigError: if the model's description is wrong.
      KeyError, ValueError: if something is missing.
    """
    newer = {name: value for name, value in _defaults().items() if name not in _ONCE_UNRECORDED}
    described = {**newer, **identity}
    model = dataclasses.asdict(config_from_json(described.pop("model")))
    described |= _flat({name: value for name, value in model.items() if name not in COMPUTE_SETTINGS}, "model.")
    described["data.name"], described["data.split"] = described.pop("data").rsplit(", ", 1)
    described |= {f"optimizer.{name}": _defaults()[f"optimizer.{name}"] for name in _YOUNGER}
    return dict(json.loads(json.dumps(described)))


def changes(was: Mapping[str, Any], now: Mapping[str, Any], done: int) -> list[Change]:
    """The settings that differ.

    A setting that the checkpoint lacks is newer than it, and then had today's default. Settings that neither the
    checkpoint nor a default gives are passed over, as are those that the first checkpoints did not record.

    Args:
      was: of the checkpoint; from `describe_run` or `from_earlier`.
      now: of the run that resumes; from `describe_run`.
      done: steps done by the checkpoint.
    """
    if "total_steps" in was:
        was = {**_defaults(), **was}
    own = {name: _NOT_SET for name in (*now, *was) if name.startswith("extra.")}
    was, now = {**own, **was}, {**own, **now}
    other_rates = _other_rates(was, now, done)
    return [
        Change(name, was[name], value, _of_identity(name) or (name in LENGTH and other_rates))
        for name, value in now.items()
        if name in was and was[name] != value and name != "total_steps"
    ]


@functools.cache
def _defaults() -> Mapping[str, Any]:
    """The defaults of all settings, in the form of `describe_run`. Samples given by a caller were once not recorded."""
    settings = get_config().to_dict()
    objects = {f"factories.{kind}": "" for kind in settings.pop("factories") if kind != "sources"}
    defaults = {**_flat(settings), **objects, **_flat(dataclasses.asdict(FlairConfig()), "model.")}
    return MappingProxyType(json.loads(json.dumps(defaults)))


def _of_identity(name: str) -> bool:
    return name in IDENTITY or name.startswith(_OPEN_GROUPS) or (name.startswith("model.") and name not in _INITIAL)


def _other_rates(was: Mapping[str, Any], now: Mapping[str, Any], done: int) -> bool:
    """Whether the changed length would have given finished steps another learning rate."""
    if "total_steps" not in was or now["optimizer.schedule"] == "constant":
        return False
    if now["optimizer.schedule"] == "cosine":
        return bool(was["total_steps"] != now["total_steps"])
    return done > min(each["total_steps"] - each["optimizer.cooldown_steps"] for each in (was, now))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
