"""Towers that keep their weights, wholly or but for their last layers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flair_jax.errors import ConfigError
from flair_jax.models.flair import Params
from flair_jax.settings import UnlockedGroups
from flair_jax.train.layers import BELOW, name_of, stacked_tower

# Tower -> its parameters.
TOWER = {"image": "vision", "text": "text"}

_NONE = UnlockedGroups()


def lock_mask(params: Params, lock: tuple[str, ...], unlocked: UnlockedGroups = _NONE) -> Params:
    """Which parameters of the locked towers ("image", "text") keep their weights.

    A tower of L layers has L + 2 groups, as open_clip counts them (`VisionTransformer.lock` and `lock_text_transformer`
    in its src/open_clip/transformer.py): embeddings with the LayerNorm after them, each layer, the last one with the
    LayerNorm after it, and the projection into the shared space.

    Args:
      params: the model's, arrays or their shapes.
      lock: the towers.
      unlocked: how many groups of each, from the end, are trained all the same.

    Returns:
      A tree like `params`: True or False; for stacked layers of which some are locked, bool [L, 1, ...].

    Raises:
      ConfigError: if a tower is to be locked in part and has no stacked layers, or no more than the groups to unlock,
        or if the one group to unlock is a projection that it does not have.
    """
    layers, projected = Counter[str](), set[str]()
    for path, leaf in jax.tree.leaves_with_path(params):
        part, *rest = name_of(path).split("/")
        if rest[:1] == ["projection"]:
            projected.add(part)
        if tower := stacked_tower(name_of(path)):
            layers[tower] = leaf.shape[0]
    groups = {TOWER[tower]: getattr(unlocked, tower) for tower in lock}
    for tower, name in TOWER.items():
        count = groups.get(name, 0)
        if count and not layers[name]:
            raise ConfigError(
                f"config.unlocked_groups.{tower}={count}: the {tower} tower has no stacked layers, so it is locked as "
                "a whole or not at all; set it to 0"
            )
        if count == 1 and name not in projected:
            raise ConfigError(
                f"config.unlocked_groups.{tower}=1: the {tower} tower has no projection, which would be its last "
                "group, so this would train nothing of it; unlock more"
            )
        if count > layers[name] + 1:
            raise ConfigError(
                f"config.unlocked_groups.{tower}={count}: the {tower} tower has {layers[name] + 2} groups, so this "
                "would lock nothing; leave it out of config.lock, or unlock fewer"
            )

    def mask(path: Any, leaf: Any) -> bool | np.ndarray:
        tower, _, rest = name_of(path).partition("/")
        if tower not in groups:
            return False
        trained = max(groups[tower] - 1, 0)  # layers
        if stacked_tower(name_of(path)):
            locked = np.arange(leaf.shape[0]) < leaf.shape[0] - trained
            return bool(locked[0]) if locked.all() else locked.reshape(-1, *[1] * (leaf.ndim - 1))
        part = rest.split("/")[0]
        return part in BELOW or groups[tower] == 0 or (part != "projection" and trained == 0)

    return jax.tree.map_with_path(mask, params)


def stop_locked(params: Params, lock: tuple[str, ...], unlocked: UnlockedGroups = _NONE) -> Params:
    """The parameters, without gradients of what is locked; nothing is differentiated for arrays locked as a whole."""

    def stop(leaf: jax.Array, locked: bool | np.ndarray) -> jax.Array:
        if isinstance(locked, bool):
            return jax.lax.stop_gradient(leaf) if locked else leaf
        return jnp.where(locked, jax.lax.stop_gradient(leaf), leaf)

    return jax.tree.map(stop, params, lock_mask(params, lock, unlocked)) if lock else params


def keep_locked(
    optimizer: optax.GradientTransformation, lock: tuple[str, ...], unlocked: UnlockedGroups = _NONE
) -> optax.GradientTransformation:
    """An optimiser under which what is locked keeps its weights, and counts in no norm.

    Arrays that are locked as a whole have no state either.

    Args:
      optimizer: of the rest.
      lock: towers, see `lock_mask`.
      unlocked: see `lock_mask`.
    """
    if not lock:
        return optimizer

    def labels(params: Params) -> Params:
        return jax.tree.map(lambda locked: "locked" if locked is True else "free", lock_mask(params, lock, unlocked))

    kept = optax.multi_transform({"free": optimizer, "locked": optax.set_to_zero()}, labels)
    if unlocked == _NONE:
        return kept

    def zero(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        return jax.tree.map(
            lambda leaf, locked: leaf if locked is False else jnp.where(locked, jnp.zeros_like(leaf), leaf),
            updates,
            lock_mask(updates, lock, unlocked),
        )

    return optax.chain(optax.stateless(zero), kept, optax.stateless(zero))
