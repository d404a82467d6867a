"""The optimiser's state in a checkpoint, read into an optimiser of another form: what both have is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

# AdamW's moments and counts of steps; what stands before them in a name depends on the form: clipping, locked towers.
_STATES = ("mu", "nu", "count")

_Name = tuple[str, ...]


def restore_what_fits(folder: Path, target: Any) -> tuple[Any, list[str]]:
    """Reads an optimiser's state; what the checkpoint does not have in the same shape starts at zero.

    Args:
      folder: Orbax's, of any tree with such a state.
      target: tree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      The state, and what was not kept, in words.
    """
    handler = ocp.PyTreeCheckpointHandler()
    saved, structure = _named(handler.metadata(folder).tree)
    wanted, target_structure = _named(target)
    kept = {name for name, leaf in wanted.items() if name in saved and tuple(saved[name].shape) == leaf.shape}
    item = jax.tree.unflatten(structure, [wanted[name] if name in kept else ocp.PLACEHOLDER for name in saved])
    restore_args = jax.tree.map(
        lambda leaf: ocp.RestoreArgs() if leaf is ocp.PLACEHOLDER else ocp.ArrayRestoreArgs(sharding=leaf.sharding),
        item,
    )
    restored, _ = _named(handler.restore(folder, args=ocp.args.PyTreeRestore(item, restore_args=restore_args)))
    anew = {name: leaf for name, leaf in wanted.items() if name not in kept}
    zeros = jax.jit(
        lambda: [jnp.zeros(leaf.shape, leaf.dtype) for leaf in anew.values()],
        out_shardings=[leaf.sharding for leaf in anew.values()],
    )()
    state = {**restored, **dict(zip(anew, zeros, strict=True))}
    lost = [*_groups(anew, "starts anew"), *_groups(saved.keys() - kept, "has no use any more")]
    return jax.tree.unflatten(target_structure, [state[name] for name in wanted]), lost


def _named(tree: Any) -> tuple[dict[_Name, Any], Any]:
    """The leaves in their order under names that do not depend on the optimiser's form, and the tree's structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    named: dict[_Name, Any] = {}
    for path, leaf in leaves:
        keys = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        name = keys[next((number for number, key in enumerate(keys) if key in _STATES), 0) :]
        while name in named:  # the count of steps is there twice
            name += ("again",)
        named[name] = leaf
    return named, structure


def _groups(names: Iterable[_Name], what: str) -> list[str]:
    groups = Counter("/".join(name[:2]) for name in names)
    return [f"{group} ({count} array(s)) {what}" for group, count in sorted(groups.items())]
