"""AdamW as FLAIR trains with it: schedules, and which parameters decay or stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flair_jax.errors import ConfigError
from flair_jax.settings import OptimizerSettings

Params = dict[str, Any]

# No weight decay: the last or last but one part of the name says so. The original's rule (fewer than 2 dimensions, or
# `bn`, `ln`, `bias`, `logit_scale` in the name) cannot be read off shapes here, because layers are stacked.
_NO_DECAY_LEAVES = ("bias", "scale", "class_token", "logit_scale", "logit_bias")

# exp(logit_scale) stays from 1 to 100 (Radford et al. 2021, section 2.5; the lower bound is the PyTorch release's).
_MAX_LOGIT_SCALE = math.log(100)

# The parameters of a tower.
_TOWER = {"image": "vision", "text": "text"}


def make_schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step, from 0.

    Linear warm-up lr * (step + 1) / warmup_steps; then "cosine" to 0, "constant", or "constant-cooldown": constant, and
    linear to 0 over the last `cooldown_steps`.

    Args:
      settings: the optimiser's.
      steps: of the whole run.

    Raises:
      ConfigError: if warm-up and cool-down take longer than the run.
    """
    rate, warmup = settings.learning_rate, settings.warmup_steps
    cooldown = settings.cooldown_steps if settings.schedule == "constant-cooldown" else 0
    if warmup + cooldown > steps:
        raise ConfigError(
            f"config.optimizer: {warmup} warm-up and {cooldown} cool-down steps do not fit in a run of {steps} steps"
        )

    def schedule(step: Any) -> Any:
        step = jnp.asarray(step, jnp.float32)
        if settings.schedule == "cosine":
            after = 0.5 * (1 + jnp.cos(jnp.pi * (step - warmup) / max(steps - warmup, 1)))
        elif settings.schedule == "constant-cooldown":
            start = steps - cooldown
            after = jnp.where(step < start, 1.0, 1 - (step - start) / max(cooldown, 1))
        else:
            after = jnp.ones_like(step)
        return rate * jnp.where(step < warmup, (step + 1) / max(warmup, 1), after)

    return schedule


def decay_mask(params: Params) -> Params:
    """True where weight decay applies: matrices, embeddings and position tables, told by their names.

    Biases, LayerNorms, the class token, `logit_scale` and `logit_bias` do not decay.
    """
    return _map_names(lambda name: name.split("/")[-1] not in _NO_DECAY_LEAVES, params)


def lock_mask(params: Params, lock: tuple[str, ...]) -> Params:
    """True for parameters of the locked towers ("image", "text"), with their projections into the shared space."""
    towers = {_TOWER[tower] for tower in lock}
    return _map_names(lambda name: name.split("/")[0] in towers, params)


def make_optimizer(settings: OptimizerSettings, schedule: optax.Schedule, lock: tuple[str, ...]) -> Any:
    """AdamW with decoupled decay, after clipping by the norm of all gradients.

    Args:
      settings: the optimiser's.
      schedule: from `make_schedule`.
      lock: towers that keep their weights; they have no optimiser state, and are left out of the norm.
    """
    parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    parts.append(
        optax.adamw(
            schedule,
            b1=settings.b1,
            b2=settings.b2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=decay_mask,
        )
    )
    chain = optax.chain(*parts)
    if not lock:
        return chain
    labels: Callable[[Params], Params] = lambda params: jax.tree.map(  # noqa: E731
        lambda locked: "locked" if locked else "free", lock_mask(params, lock)
    )
    return optax.multi_transform({"free": chain, "locked": optax.set_to_zero()}, labels)


def clamp_logit_scale(params: Params) -> Params:
    """The parameters with `logit_scale` brought back to [0, ln 100]."""
    return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0, _MAX_LOGIT_SCALE)}


def update_ema(ema: Params | None, params: Params, settings: OptimizerSettings) -> Params | None:  # noqa: ARG001
    """The moving average of the parameters after a step; None where it is off."""
    return ema


def _map_names(function: Callable[[str], bool], params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: function(jax.tree_util.keystr(path, simple=True, separator="/")), params
    )
