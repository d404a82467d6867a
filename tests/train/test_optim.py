"""Schedules, decay and locking against the original's rules."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flair_jax.errors import ConfigError
from flair_jax.settings import OptimizerSettings
from flair_jax.train.locked import lock_mask
from flair_jax.train.optim import clamp_logit_scale, decay_mask, make_optimizer, make_schedule
from flair_jax.weights.param_map import torch_from_params

SETTINGS = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_steps": 0,
    "cooldown_steps": 0,
    "b1": 0.9,
    "b2": 0.98,
    "eps": 1e-8,
    "weight_decay": 0.5,
    "clip_norm": 0.0,
    "layer_decay": 1.0,
    "image_rate": 1.0,
    "text_rate": 1.0,
    "ema_decay": 0.0,
}


@pytest.mark.golden
@pytest.mark.parametrize("name", ["cosine", "constant", "constant_cooldown"])
def test_golden_schedules(golden, name: str) -> None:
    """Within 1e-6 of the highest rate: ours is float32, theirs float64."""
    data = json.loads((golden / "schedules.json").read_text())
    settings = SETTINGS | {
        "schedule": name.replace("_", "-"),
        "learning_rate": data["base_lr"],
        "warmup_steps": data["warmup"],
        "cooldown_steps": data["cooldown_steps"],
    }
    schedule = make_schedule(OptimizerSettings(**settings), data["steps"])
    ours = jax.vmap(schedule)(jnp.arange(data["steps"]))
    np.testing.assert_allclose(ours, data["values"][name], rtol=0, atol=1e-6 * data["base_lr"])


@pytest.mark.golden
def test_golden_no_decay(golden, golden_model) -> None:
    model, params = golden_model
    decays = jax.tree.map(lambda leaf, mask: np.full(leaf.shape, mask, np.float32), params, decay_mask(params))
    tensors = torch_from_params(decays, model.config)
    assert sorted(name for name, tensor in tensors.items() if not tensor.any()) == sorted(
        json.loads((golden / "no_decay.json").read_text())
    )


@pytest.mark.parametrize("lock", [(), ("text",), ("image", "text")])
def test_locked_towers_keep_their_weights(small_model, lock) -> None:
    _, params = small_model
    optimizer = make_optimizer(OptimizerSettings(**SETTINGS), lambda step: 1e-2, lock)

    @jax.jit
    def step(params):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
        return jax.tree.map(lambda a, b: (a != b).any(), params, optax.apply_updates(params, updates)), state

    moved, state = jax.device_get(step(params))
    assert jax.tree.map(lambda locked: not locked, lock_mask(params, lock)) == jax.tree.map(bool, moved)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    free = sum(
        leaf.size
        for leaf, locked in zip(jax.tree.leaves(params), jax.tree.leaves(lock_mask(params, lock)), strict=True)
        if not locked and leaf.ndim
    )
    assert moments == 2 * free


def test_lock_names_whole_towers(small_model) -> None:
    _, params = small_model
    mask = lock_mask(params, ("image",))
    assert all(jax.tree.leaves(mask["vision"]))
    assert not any(jax.tree.leaves({name: leaf for name, leaf in mask.items() if name != "vision"}))


@pytest.mark.parametrize(("value", "clamped"), [(-1.0, 0.0), (2.0, 2.0), (9.0, np.log(100))])
def test_clamp(value: float, clamped: float) -> None:
    assert clamp_logit_scale({"logit_scale": jnp.float32(value)})["logit_scale"] == np.float32(clamped)


def test_too_long_a_warmup() -> None:
    with pytest.raises(ConfigError, match="warmup_steps=50 does not fit in a run of 20 steps"):
        make_schedule(OptimizerSettings(**(SETTINGS | {"warmup_steps": 50})), 20)


def test_a_negative_number_of_steps_is_not_what_a_warmup_does_not_fit_in() -> None:
    """It is among the problems that a dry run names."""
    make_schedule(OptimizerSettings(**(SETTINGS | {"warmup_steps": 1})), -5)
