"""The mesh of devices, and one table that says how parameters and optimiser state are sharded over it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath

from flair_jax.errors import ConfigError, plural
from flair_jax.models.layout import BATCH_AXES
from flair_jax.settings import MeshSettings

AXES = ("data", "fsdp", "tensor")

# A batch is sharded over the axes that do not shard layers.
BATCH = P(BATCH_AXES)

# Pattern, searched for at the end of a parameter's path -> how the array's axes are sharded. Moments have the paths of
# their parameters behind a prefix, so the same row holds for them. Parameters that no row names are replicated:
# LayerNorms, biases of layers that write to the residual stream, position tables, the class token, the scalars.
# Stacked layers have their depth as the first axis.
PARTITION_RULES: tuple[tuple[str, P], ...] = (
    (r"blocks/attention/(query|key|value)/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/attention/(query|key|value)/bias", P(None, "tensor")),
    (r"blocks/attention/out/kernel", P(None, "tensor", "fsdp")),
    (r"blocks/mlp/up/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/mlp/up/bias", P(None, "tensor")),
    (r"blocks/mlp/down/kernel", P(None, "tensor", "fsdp")),
    (r"(vision|text)/projection/kernel", P("fsdp", None)),
    (r"(pooling|vision/head)/(query|key|value|out)/kernel", P("fsdp", None)),
    (r"text/token_embedding", P("fsdp", None)),
    (r"vision/patch_embedding(/kernel)?", P(None, None, None, "fsdp")),
)

# Bytes of an array from which on it is worth a warning that every device holds all of it.
_LARGE = 4 * 2**20


def make_mesh(settings: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor over all devices of all processes; a laptop's is 1 x 1 x 1.

    Args:
      settings: sizes; one may be -1, for the rest of the devices.
      devices: all if not given.

    Raises:
      ConfigError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(settings, axis) for axis in AXES]
    free, fixed = sizes.count(-1), math.prod(size for size in sizes if size != -1)
    asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if free > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(f"config.mesh: {asked}; sizes are at least 1, and one of them may be -1")
    if len(devices) % fixed or (not free and fixed != len(devices)):
        there = f"{'is' if len(devices) == 1 else 'are'} {plural(len(devices), f'{devices[0].device_kind} device')}"
        raise ConfigError(
            f"config.mesh: {asked} {'need a multiple of' if free else 'make'} {plural(fixed, 'device')}, and there "
            f"{there}; set sizes whose product is {len(devices)}, or one of them to -1, which takes what the others "
            "leave: --config.mesh.data=-1"
        )
    shape = [len(devices) // fixed if size == -1 else size for size in sizes]
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:  # between slices only gradients and text features should travel
        if shape[0] % slices:
            raise ConfigError(f"config.mesh: data={shape[0]} is not a multiple of the {slices} slices")
        grid = mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, *shape[1:]), (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def data_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh whose only axis is data."""
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates arrays, however they are sharded, on each of this process's devices.

    No device ever holds more than one copy beside the shard that it had. If arrays are sharded over the devices of
    several processes, every process must call this.

    Args:
      tree: of arrays of NumPy or JAX.
      mesh: of local devices.
    """
    leaves, structure = jax.tree.flatten(tree)
    spread = [number for number, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and _spans_processes(leaf)]
    if spread:
        everywhere = NamedSharding(leaves[spread[0]].sharding.mesh, P())
        # In one program, and to its end: processes must not run several programs at once that wait for each other.
        gather = jax.jit(lambda *parts: parts, out_shardings=everywhere)
        whole = jax.block_until_ready(gather(*(leaves[number] for number in spread)))
        for number, leaf in zip(spread, whole, strict=True):
            leaves[number] = leaf
    return jax.tree.unflatten(structure, [_on_local_devices(leaf, mesh) for leaf in leaves])


def _spans_processes(leaf: jax.Array) -> bool:
    """Whether no process holds all of it."""
    return not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _on_local_devices(leaf: Any, mesh: Mesh) -> jax.Array:
    """The copies on this process's devices of an array that is replicated over all processes; nothing is copied."""
    sharding = NamedSharding(mesh, P())
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    on = {shard.device: shard.data for shard in leaf.addressable_shards}
    local = [on[device] for device in mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, local)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A `NamedSharding` for every leaf of a tree of arrays or shapes, by `PARTITION_RULES`.

    A leaf whose path holds a parameter's belongs to it: a moment of the parameter's shape lies as the parameter
    does, and a statistic over one of its axes, such as Adafactor's, as what is left of it. What belongs to no parameter
    or does not divide is replicated, with a warning if it is large.

    Args:
      tree: parameters, or a state with the field `params`.
      mesh: with the axes of `AXES`.

    Raises:
      ConfigError: if an axis of a parameter, or of a moment of its shape, is not a multiple of the mesh's axis that
        shards it.
    """
    shapes = {_keys(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(getattr(tree, "params", tree))}
    large: list[tuple[str, int]] = []

    def leaf_sharding(path: KeyPath[Any], leaf: Any) -> NamedSharding:
        keys = _keys(path)
        parameter = _parameter(keys, shapes)
        rule = _rule("/".join(parameter))
        if parameter and leaf.shape == shapes[parameter]:
            _check_divides(mesh, "/".join(keys), leaf.shape, rule)
            return NamedSharding(mesh, rule)
        spec = _rest_of_rule(mesh, rule, shapes.get(parameter, ()), leaf.shape)
        size = math.prod(leaf.shape) * getattr(leaf.dtype, "itemsize", 1)
        if size >= _LARGE and spec == P() and mesh.shape["fsdp"] * mesh.shape["tensor"] > 1:
            large.append(("/".join(keys), size))
        return NamedSharding(mesh, spec)

    found = jax.tree.map_with_path(leaf_sharding, tree)
    if large and jax.process_index() == 0:
        logging.warning(
            "config.mesh: every device holds a copy of %s of the optimiser's state, %.0f MB, for want of a parameter's "
            "shape or a size that the mesh divides: %s",
            plural(len(large), "large array"),
            sum(size for _, size in large) / 1e6,
            ", ".join(name for name, _ in large[:3]) + (", ..." if large[3:] else ""),
        )
    return found


def _keys(path: KeyPath[Any]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _parameter(keys: tuple[str, ...], parameters: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """The longest part of a path that is a parameter's; () if none is."""
    parts = (keys[start : start + length] for length in range(len(keys), 0, -1) for start in range(len(keys)))
    return next((part for part in parts if part in parameters), ())


def _rule(name: str) -> P:
    return next((spec for pattern, spec in PARTITION_RULES if re.search(rf"(^|/){pattern}$", name)), P())


def _check_divides(mesh: Mesh, name: str, shape: tuple[int, ...], spec: P) -> None:
    for size, axis in zip(shape, spec, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            raise ConfigError(
                f"config.mesh: {axis}={mesh.shape[axis]} does not divide an axis of {name}, shape {shape}"
            )


def _rest_of_rule(mesh: Mesh, rule: P, parameter: tuple[int, ...], shape: tuple[int, ...]) -> P:
    """The rule of a parameter for an array that lacks one of its axes; replicated if that is not what it is."""
    axes = [*rule, *[None] * (len(parameter) - len(rule))]
    for gone in reversed(range(len(parameter))):  # of equal axes the last: which of them it was changes little
        if parameter[:gone] + parameter[gone + 1 :] == shape:
            rest = axes[:gone] + axes[gone + 1 :]
            rest = [
                axis if axis and not size % mesh.shape[axis] else None for size, axis in zip(shape, rest, strict=True)
            ]
            return P(*rest) if any(rest) else P()
    return P()


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, BATCH)


def global_batch(local: Any, mesh: Mesh) -> Any:
    """Global arrays from the rows that each process has: process p holds the p-th contiguous part of the rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), local)


def check_batch(batch_size: int, accumulation_steps: int, mesh: Mesh) -> None:
    """Raises ConfigError if the rows of a batch do not divide over the devices and processes."""
    part = batch_size // accumulation_steps
    if batch_size % mesh.size or part % (mesh.shape["data"] * mesh.shape["fsdp"]):
        shape = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        steps = accumulation_steps
        parts = f" in {plural(steps, 'part')} (config.accumulation_steps)" if steps > 1 else ""
        each = math.lcm(mesh.size, steps * mesh.shape["data"] * mesh.shape["fsdp"])
        raise ConfigError(
            f"config.batch_size={batch_size}{parts} does not divide over the mesh {shape}; make it a multiple of "
            f"{each:,}"
        )
