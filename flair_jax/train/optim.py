"""Optimisers by name, their schedules, and which parameters decay or stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from flair_jax.errors import ConfigError, plural
from flair_jax.models.flair import Params
from flair_jax.settings import OptimizerSettings, UnlockedGroups
from flair_jax.train.layers import map_names, matrix_axes, per_layer, scale_by_rates, stacked_tower
from flair_jax.train.locked import TOWER, keep_locked

# Parameters without weight decay, by the last part of their names. The original's rule (fewer than 2 dimensions, or
# `bn`, `ln`, `bias`, `logit_scale` in the name) cannot be applied to shapes here, because layers are stacked.
_NO_DECAY_LEAVES = ("bias", "scale", "class_token", "register_tokens", "probe_token", "logit_scale", "logit_bias")

# exp(logit_scale) stays from 1 to 100 (Radford et al. 2021, section 2.5; the lower bound is the PyTorch release's).
_MAX_LOGIT_SCALE = math.log(100)


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
    if 0 <= steps < warmup + cooldown:  # a negative number is refused as such
        asked = f"warmup_steps={warmup}" + (f" and cooldown_steps={cooldown} do" if cooldown else " does")
        raise ConfigError(
            f"config.optimizer.{asked} not fit in a run of {plural(steps, 'step')}; set "
            f"{'their sum' if cooldown else 'it'} to at most {steps:,}, or train for longer (config.steps, "
            "config.epochs)"
        )

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
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

    Biases, LayerNorms, class, register and probe tokens, `logit_scale` and `logit_bias` do not decay.
    """
    return map_names(lambda name: name.split("/")[-1] not in _NO_DECAY_LEAVES, params)


def make_optimizer(
    settings: OptimizerSettings,
    schedule: optax.Schedule,
    lock: tuple[str, ...],
    unlocked: UnlockedGroups | None = None,
) -> optax.GradientTransformation:
    """The optimiser of `OPTIMIZERS` with decoupled decay, after clipping by the norm of all gradients.

    Args:
      settings: the optimiser's.
      schedule: from `make_schedule`.
      lock: towers that keep their weights; they have no optimiser state, and are left out of the norm.
      unlocked: but for so many of their groups; see `flair_jax.train.lock_mask`.
    """
    parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    parts.append(OPTIMIZERS[settings.name](settings, schedule))
    if (settings.layer_decay, settings.image_rate, settings.text_rate) != (1, 1, 1):
        rates = {TOWER["image"]: settings.image_rate, TOWER["text"]: settings.text_rate}
        parts.append(scale_by_rates(settings.layer_decay, rates))
    return keep_locked(optax.chain(*parts), lock, unlocked or UnlockedGroups())


def _adamw(settings: OptimizerSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """As FLAIR was trained (Loshchilov and Hutter 2019)."""
    return optax.adamw(
        schedule,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        mask=decay_mask,
    )


def _lion(settings: OptimizerSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The sign of a momentum (Chen et al. 2023); its learning rates are 3 to 10 times smaller than AdamW's."""
    return optax.lion(schedule, b1=settings.b1, b2=settings.b2, weight_decay=settings.weight_decay, mask=decay_mask)


def _muon(settings: OptimizerSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan 2024) for matrices, layer by layer, and AdamW for the rest.

    Its updates have the size of AdamW's (Liu et al. 2025, section 2.2), so both take the same learning rate and decay.
    """
    muon = optax.contrib.muon(
        schedule,
        beta=settings.b1,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=matrix_axes,
    )

    def label(params: Params) -> Params:
        return jax.tree.map(
            lambda axes: "adamw" if axes is None else "muon",
            matrix_axes(params),
            is_leaf=lambda node: node is None or isinstance(node, optax.contrib.MuonDimensionNumbers),
        )

    return optax.partition({"muon": muon, "adamw": _adamw(settings, schedule)}, label)


def _adafactor(settings: OptimizerSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern 2018), layer by layer, as Zhai et al. (2022, section 3.4) train vision transformers.

    It has a momentum in bfloat16 and no scaling by the parameters' size, so AdamW's learning rates and decay suit it.
    """

    def make() -> optax.GradientTransformation:
        return optax.adafactor(
            multiply_by_parameter_scale=False, momentum=settings.b1 or None, dtype_momentum=jnp.bfloat16
        )

    groups = {**{tower: per_layer(make()) for tower in TOWER.values()}, "rest": make()}

    def label(params: Params) -> Params:
        return map_names(lambda name: tower if (tower := stacked_tower(name)) in groups else "rest", params)

    # Optax's would not multiply the decay by the learning rate. Its updates have their sign already.
    decay = optax.add_decayed_weights(-settings.weight_decay, decay_mask)
    return optax.chain(optax.partition(groups, label), decay, optax.scale_by_schedule(schedule))


# `config.optimizer.name` -> a function that makes the optimiser, weight decay and learning rate included.
OPTIMIZERS: dict[str, Callable[[OptimizerSettings, optax.Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "lion": _lion,
    "muon": _muon,
    "adafactor": _adafactor,
}


def clamp_logit_scale(params: Params) -> Params:
    """The parameters with `logit_scale` clamped to [0, ln 100]."""
    return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0, _MAX_LOGIT_SCALE)}


def update_ema(ema: Params | None, params: Params, settings: OptimizerSettings) -> Params | None:
    """The exponential moving average of the parameters after a step, in float32; None where it is off.

    Args:
      ema: before the step.
      params: after the step.
      settings: the optimiser's; `ema_decay` is the weight of the previous average.
    """
    if ema is None:
        return None
    decay = settings.ema_decay
    return jax.tree.map(lambda mean, leaf: decay * mean + (1 - decay) * leaf, ema, params)
