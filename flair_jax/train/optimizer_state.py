"""The optimiser's state in a checkpoint, read into an optimiser of another form: their common parts are kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from flair_jax.errors import ConfigError, plural
from flair_jax.models.flair import Params

# The fields that a state has beside a leaf's, the leaf's own, and the path below it: ("count,mu,nu", "mu", "vision",
# ...). Only states with the same fields mean the same by them.
_Name = tuple[str, ...]

# States that only count steps, such as a schedule's.
_STEPS = ("count", "count")


def restore_what_fits(
    folder: Path, target: dict[str, Any], optimizer: optax.GradientTransformation, params: Params
) -> tuple[dict[str, Any], list[str]]:
    """Reads an optimiser's state; parts that the checkpoint lacks in that shape are as `optimizer` initialises them.

    Schedules continue from the checkpoint's step in any case.

    Args:
      folder: Orbax's, of a tree with `step` and `opt_state`.
      target: such a tree of `jax.ShapeDtypeStruct` with shardings.
      optimizer: whose state `target` describes.
      params: the checkpoint's.

    Returns:
      The state, and the parts that were not kept, in words.
    """
    handler = ocp.PyTreeCheckpointHandler()
    saved, structure = _named(handler.metadata(folder).tree)
    wanted, target_structure = _named(target)
    kept = {name for name, leaf in wanted.items() if name in saved and _fits(saved[name], leaf)}
    item = jax.tree.unflatten(structure, [wanted[name] if name in kept else ocp.PLACEHOLDER for name in saved])
    restore_args = jax.tree.map(
        lambda leaf: (
            ocp.RestoreArgs()
            if leaf is ocp.PLACEHOLDER
            else ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype)
        ),
        item,
    )
    restored, _ = _named(handler.restore(folder, args=ocp.args.PyTreeRestore(item, restore_args=restore_args)))
    anew = {name: leaf for name, leaf in wanted.items() if name not in kept}

    def begin(params: Params, step: jax.Array) -> list[jax.Array]:
        first, _ = _named({"step": step, "opt_state": optimizer.init(params)})
        return [jnp.full_like(first[name], step) if name[:2] == _STEPS else first[name] for name in anew]

    begun = jax.jit(begin, out_shardings=[leaf.sharding for leaf in anew.values()])(params, restored["step", "step"])
    state = {**restored, **dict(zip(anew, begun, strict=True))}
    lost = [*_groups(anew, kept, "starts anew"), *_groups(saved.keys() - kept, kept, "has no use any more")]
    return jax.tree.unflatten(target_structure, [state[name] for name in wanted]), lost


def fill_adamw(
    target: dict[str, Any], step: int, mean: Params, square: Params, put: Callable[[Any, np.ndarray], jax.Array]
) -> dict[str, Any]:
    """The state of an AdamW, in whatever form, after so many updates.

    Args:
      target: tree of `jax.ShapeDtypeStruct`, with `step` and `opt_state`.
      step: the number of updates; schedules are at that step too.
      mean: of the gradients, a tree like the parameters.
      square: mean of their squares, likewise.
      put: (what `target` has in a place, the array [...] of its shape) -> the array as it should be there.

    Raises:
      ConfigError: if the optimiser has another state than AdamW's.
    """
    values: dict[_Name, Any] = {}
    for field, tree in (("mu", mean), ("nu", square)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            values["count,mu,nu", field, *(jax.tree_util.keystr((key,), simple=True) for key in path)] = leaf
    wanted, structure = _named(target)
    counts = {name for name in wanted if name[:2] in (_STEPS, ("step", "step"), ("count,mu,nu", "count"))}
    if unknown := [name for name in wanted if name not in values and name not in counts]:
        raise ConfigError(f"the optimiser has {'/'.join(unknown[0][1:])} in its state, which AdamW has not")
    filled = [put(leaf, np.asarray(step) if name in counts else values[name]) for name, leaf in wanted.items()]
    return dict(jax.tree.unflatten(structure, filled))


def _fits(saved: Any, leaf: jax.ShapeDtypeStruct) -> bool:
    return getattr(saved, "shape", None) == leaf.shape and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)


def _named(tree: Any) -> tuple[dict[_Name, Any], jax.tree_util.PyTreeDef]:
    """The leaves in order, under names that do not depend on the optimiser's form, and the tree's structure."""
    leaves, structure = jax.tree.flatten_with_path(tree)
    paths = [tuple(jax.tree_util.keystr((key,), simple=True) for key in path) for path, _ in leaves]
    starts = [_first_field(keys) for keys in paths]
    fields: dict[_Name, set[str]] = defaultdict(set)
    for keys, start in zip(paths, starts, strict=True):
        fields[keys[:start]].add(keys[start])
    named: dict[_Name, Any] = {}
    for keys, start, (_, leaf) in zip(paths, starts, leaves, strict=True):
        name = (",".join(sorted(fields[keys[:start]])), *keys[start:])
        while name in named:  # a schedule's count may be there twice
            name += ("again",)
        named[name] = leaf
    return named, structure


def _first_field(keys: tuple[str, ...]) -> int:
    """The length of a path's prefix that is only an optimiser's form: chains, wrappers, and groups of parameters."""
    number = 0
    while number < len(keys) - 1 and (keys[number].isdecimal() or keys[number].startswith(("opt_state", "inner"))):
        number += 2 if keys[number] == "inner_states" else 1
    return min(number, len(keys) - 1)


def _groups(names: Iterable[_Name], kept: Collection[_Name], what: str) -> list[str]:
    """What became of fields, and of the towers in fields of which something is kept, in words."""
    in_part = {name[:2] for name in kept}
    groups = Counter("/".join(name[1 : 3 if name[:2] in in_part else 2]) for name in names if name[:2] != _STEPS)
    return [f"{group} ({plural(count, 'array')}) {what}" for group, count in sorted(groups.items())]
