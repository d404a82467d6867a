"""How activations are sharded over a mesh. Each function returns its array unchanged when there is no mesh."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

# Axes of the mesh that shard a batch; those that the mesh in use lacks are left out.
BATCH_AXES = ("data", "fsdp")


def shard_rows(x: Array, tensor: int | None = None) -> Array:
    """Constrains x to be sharded by rows over the batch's axes, and one more axis over "tensor".

    Without it, the compiler may shard activations along the axis by which parameters are sharded, and exchange
    activations instead of parameters.

    Args:
      x: activations [rows, ...]. Returned unchanged if the rows do not divide over the mesh.
      tensor: the axis of heads or hidden units; not sharded if it does not divide.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    axes = tuple(axis for axis in BATCH_AXES if axis in shape)
    if _devices() == 1 or x.shape[0] % math.prod(shape[axis] for axis in axes):
        return x
    spec: list[tuple[str, ...] | str | None] = [axes] + [None] * (x.ndim - 1)
    if tensor is not None and x.shape[tensor] % shape.get("tensor", 1) == 0 and "tensor" in shape:
        spec[tensor] = "tensor"
    return jax.lax.with_sharding_constraint(x, P(*spec))


def gather(parameter: Array) -> Array:
    """Constrains a parameter, of any shape, to be replicated where it is used: an all-gather if it is sharded."""
    return parameter if _devices() == 1 else jax.lax.with_sharding_constraint(parameter, P())


def mesh_platform() -> str:
    """The platform of the mesh in use, whose chips need not be attached: "cpu", "gpu" or "tpu"; "" without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return "" if mesh.empty or mesh.abstract_device is None else str(mesh.abstract_device.platform)


def is_divided() -> bool:
    """Whether the compiler divides the program over devices: the mesh in use has axes that are no `shard_map`'s."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return any(mesh.shape[name] > 1 for name, kind in kinds if kind != AxisType.Manual)


def tensor_parts(heads: int) -> int:
    """Into how many parts the mesh divides so many heads: 1 if it does not, or they do not divide."""
    parts = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    return 1 if heads % parts else parts


def map_rows(function: Callable[..., tuple[Array, ...]], *arrays: Array) -> tuple[Array, ...]:
    """Calls a function, which the compiler cannot divide, on each device with the device's rows and heads.

    Args:
      function: of as many arrays as are given; its results have three axes.
      arrays: [rows, ...], divided over the batch's axes unless the rows do not divide: then each device has them all.
        The last axis of those with three is divided over "tensor".

    Returns:
      Arrays that are divided likewise.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Axes that are another type's are those of an enclosing `shard_map`, whose function has its device's part already.
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    sizes = {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto}
    if math.prod(sizes.values()) == 1:
        return function(*arrays)
    batch = tuple(axis for axis in BATCH_AXES if axis in sizes)
    if arrays[0].shape[0] % math.prod(sizes[axis] for axis in batch):
        batch = ()
    tensor = "tensor" if "tensor" in sizes else None
    specs = {2: P(batch, None), 3: P(batch, None, tensor)}
    divided = jax.shard_map(
        function,
        in_specs=tuple(specs[array.ndim] for array in arrays),
        out_specs=specs[3],
        axis_names=set(sizes),
        check_vma=False,
    )
    return divided(*arrays)


def _devices() -> int:
    return math.prod(jax.sharding.get_abstract_mesh().shape.values())
