"""The mesh of devices, and one table that says how parameters and optimiser state lie on it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.errors import ConfigError
from flair_jax.models.layout import BATCH_AXES
from flair_jax.settings import MeshSettings

AXES = ("data", "fsdp", "tensor")

# A batch is split over the axes that do not split layers.
BATCH = P(BATCH_AXES)

# Pattern, searched for at the end of a parameter's path, -> how the axes of the array are split. Adam's moments have
# the paths of their parameters behind a prefix, so the same row holds for them. What no row names is copied to all:
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
    (r"pooling/(query|key|value|out)/kernel", P("fsdp", None)),
    (r"text/token_embedding", P("fsdp", None)),
    (r"vision/patch_embedding", P(None, None, None, "fsdp")),
)


def make_mesh(settings: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor over all devices of all processes; a laptop's is 1 x 1 x 1.

    Args:
      settings: sizes; one may be -1 and takes what the others leave.
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
        raise ConfigError(f"config.mesh: {asked} does not make {len(devices)} device(s)")
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


def copy_to(mesh: Mesh, tree: Any) -> Any:
    """Arrays as copies on each of this process's devices, wherever they are.

    No device ever holds more than one copy beside the part that it had. If arrays are spread over the devices of all
    processes, all must call it.

    Args:
      mesh: of local devices.
      tree: of arrays of NumPy or JAX.
    """
    leaves, structure = jax.tree.flatten(tree)
    split = [number for number, leaf in enumerate(leaves) if isinstance(leaf, jax.Array) and _is_split(leaf)]
    if split:
        everywhere = NamedSharding(leaves[split[0]].sharding.mesh, P())
        # In one program, and to its end, for processes may not run several at once that wait for each other.
        gather = jax.jit(lambda *parts: parts, out_shardings=everywhere)
        whole = jax.block_until_ready(gather(*(leaves[number] for number in split)))
        for number, leaf in zip(split, whole, strict=True):
            leaves[number] = leaf
    return jax.tree.unflatten(structure, [_on_local_devices(leaf, mesh) for leaf in leaves])


def _is_split(leaf: jax.Array) -> bool:
    return not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _on_local_devices(leaf: Any, mesh: Mesh) -> jax.Array:
    """Of an array that has copies on the devices of all processes, those on this one's, which are not copied again."""
    sharding = NamedSharding(mesh, P())
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    on = {shard.device: shard.data for shard in leaf.addressable_shards}
    local = [on[device] for device in mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, local)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A `NamedSharding` for every leaf of a tree of arrays or shapes, by `PARTITION_RULES`.

    Raises:
      ConfigError: if an axis of an array is not a multiple of the mesh's axis that splits it.
    """

    def leaf_sharding(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((spec for pattern, spec in PARTITION_RULES if re.search(rf"(^|/){pattern}$", name)), P())
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise ConfigError(
                    f"config.mesh: {axis}={mesh.shape[axis]} does not divide an axis of {name}, shape {leaf.shape}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over the data and fsdp axes."""
    return NamedSharding(mesh, BATCH)


def global_batch(local: Any, mesh: Mesh) -> Any:
    """Arrays over all processes from the rows that each process has: process p holds the p-th part of the rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), local)


def check_batch(batch_size: int, accumulation_steps: int, mesh: Mesh) -> None:
    """Raises ConfigError if the rows of a batch do not divide over the devices and processes."""
    part = batch_size // accumulation_steps
    if batch_size % mesh.size or part % (mesh.shape["data"] * mesh.shape["fsdp"]):
        shape = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        raise ConfigError(
            f"config.batch_size={batch_size} in {accumulation_steps} part(s) does not divide over the mesh {shape}"
        )
