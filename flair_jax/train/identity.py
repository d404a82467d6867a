"""What makes a run this run: the settings that may change while it goes on, and those that may not. Imports no JAX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from flair_jax.models.description import config_from_json
from flair_jax.settings import TrainSettings

# With another value of these, going on is not the same as never having stopped: the samples, the loss, the optimiser or
# the rounding of the steps to come would be others. `samples` is how many the data has; the model's sizes belong here
# too, whatever the name or file that they come from.
IDENTITY = (
    *("dtype", "seed", "batch_size", "captions_per_image", "samples"),
    *("data.name", "data.split", "data.weights", "data.merged_sentences", "data.crop_scale"),
    *("lock", "loss.terms", "loss.group_size"),
    *(f"optimizer.{name}" for name in ("learning_rate", "schedule", "warmup_steps", "clip_norm")),
    *(f"optimizer.{name}" for name in ("b1", "b2", "eps", "weight_decay")),
)

# These say how long the run is, and when its cool-down begins. They may change as long as no step that is done would
# have had another learning rate: with "constant" always, with "constant-cooldown" before the cool-down, with "cosine"
# only if the number of steps stays.
LENGTH = ("epochs", "steps", "data.epoch_samples", "optimizer.cooldown_steps")

# These change nothing that is trained: a name for what is compared by its contents, or what has been used by step 1
# (`model`, `init`), where things lie, how the work is divided, what is saved and logged and how often.
FREE = (
    *("model", "init", "remat", "unroll", "accumulation_steps", "loss.pairs_per_block"),
    *("mesh.data", "mesh.fsdp", "mesh.tensor"),
    *("data.dir", "data.index_dir", "data.workers"),
    *("checkpoint.every_steps", "checkpoint.keep", "checkpoint.keep_every_steps"),
    *("log_every_steps", "wandb_project", "compilation_cache"),
    *(f"evaluation.{name}" for name in ("every_steps", "dataset", "dir", "mode", "top_k", "batch_size")),
)

_COMPUTE_SETTINGS = ("dtype", "remat", "unroll")
_INITIAL = ("init", "model.init_logit_scale", "model.init_logit_bias")


class Change(NamedTuple):
    """A setting that is not what it was.

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
        """Whether no state of the run can be kept."""
        return self.name.startswith("model.") and self.of_identity and not isinstance(self.now, bool)

    def __str__(self) -> str:
        name = "the number of samples" if self.name == "samples" else f"config.{self.name}"
        unused = " (of no effect: the parameters are the checkpoint's)" if self.name in _INITIAL else ""
        return f"{name} was {self.was!r}, is {self.now!r}{unused}"


def describe(settings: TrainSettings, samples: int) -> dict[str, Any]:
    """All that a run is, as JSON values by name: its settings, its model, the samples of its data, and its steps."""
    model = {
        name: value
        for name, value in dataclasses.asdict(settings.model_config()).items()
        if name not in _COMPUTE_SETTINGS
    }
    flat = {**_flat(dataclasses.asdict(settings)), **_flat(model, "model.")}
    described = {**flat, "samples": samples, "total_steps": settings.total_steps(samples)}
    return dict(json.loads(json.dumps(described)))  # tuples are lists in a checkpoint


def from_earlier(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What checkpoints said of their run before they had all of its settings, in the form of `describe`.

    Raises:
      ConfigError: if the model's description is wrong.
      KeyError, ValueError: if something is missing.
    """
    described = dict(identity)
    model = dataclasses.asdict(config_from_json(described.pop("model")))
    described |= _flat({name: value for name, value in model.items() if name not in _COMPUTE_SETTINGS}, "model.")
    described["data.name"], described["data.split"] = described.pop("data").rsplit(", ", 1)
    return described


def changes(was: Mapping[str, Any], now: Mapping[str, Any], done: int) -> list[Change]:
    """The settings that differ; those that one of the two does not know are passed over.

    Args:
      was: of the checkpoint; from `describe` or `from_earlier`.
      now: of the run that goes on; from `describe`.
      done: steps that the checkpoint has behind it.
    """
    other_rates = _other_rates(was, now, done)
    return [
        Change(name, was[name], value, _of_identity(name) or (name in LENGTH and other_rates))
        for name, value in now.items()
        if name in was and was[name] != value and name != "total_steps"
    ]


def _of_identity(name: str) -> bool:
    return name in IDENTITY or (name.startswith("model.") and name not in _INITIAL)


def _other_rates(was: Mapping[str, Any], now: Mapping[str, Any], done: int) -> bool:
    """Whether the changed length would have given steps that are done another learning rate."""
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
