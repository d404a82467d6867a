"""How activations are sharded over a mesh. Each function returns its array unchanged when there is no mesh."""

from __future__ import annotations

import math

import jax
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


def _devices() -> int:
    return math.prod(jax.sharding.get_abstract_mesh().shape.values())
