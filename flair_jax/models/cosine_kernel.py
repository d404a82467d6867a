"""Scores of one image with many texts as one TPU kernel, from the logits to the cosines.

All of an image's logits with a block of texts fit the chip's fast memory, head by head, and so do the mixed values and
the pooled features: nothing but the cosines is written to slow memory.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_LANES = 128
_ROWS = 16  # of a register of bfloat16; one of float32 has half as many
_MEMORY = 16 * 2**20  # bytes of fast memory that arguments, held twice, and intermediates may take: all that a v4 has
_LIMIT = 32 * 2**20  # what later chips may use of theirs, for what the compiler adds


def takes(heads: int, length: int, width: int, dtype: DTypeLike) -> bool:
    """Whether the kernel takes so many heads, local tokens of an image, and channels of a head."""
    return width % _ROWS == 0 and _most_texts(heads, length, width, jnp.dtype(dtype).itemsize) >= _LANES


def kernel_cosines(
    key: Float[Array, "H L C"],
    value: Float[Array, "H L C"],
    query: Float[Array, "H C N"],
    target: Float[Array, "D N"],
    triangle: Float[Array, "D D"],
    bias: Float[Array, " D"],
    *,
    interpret: bool = False,
) -> Float[Array, " N"]:
    """`TextConditionedPooling.cosines`, whose arguments it takes apart; `jax.vmap` goes over images.

    Products have the precision of `jax.default_matmul_precision`; the softmax and what follows it are float32.

    Args:
      key: of the image, bfloat16 or float32; sizes as `takes` allows.
      value: likewise.
      query: of the texts.
      target: of the texts, in the basis of the triangle.
      triangle: the out-projection.
      bias: its bias.
      interpret: whether to run it as JAX's operations, on any device, slowly.
    """
    heads, length, width = key.shape
    count, dim, itemsize = query.shape[-1], heads * width, key.dtype.itemsize
    blocks = -(-count // _most_texts(heads, length, width, itemsize))
    block = count if blocks == 1 else -(-count // (blocks * _LANES)) * _LANES
    arrays = (key, value, query, target, triangle, bias[:, None])
    specs = [_all_texts(key), _all_texts(value), _some_texts(query, block), _some_texts(target, block)]
    specs += [_all_texts(triangle), _all_texts(arrays[-1])]
    out = jax.ShapeDtypeStruct((1, count), jnp.float32, manual_axis_type=jax.typeof(key).manual_axis_type)
    starts = range(0, dim, _LANES)
    found = pl.pallas_call(
        _score,
        grid=(pl.cdiv(count, block),),
        in_specs=specs,
        out_specs=_some_texts(out, block),
        out_shape=out,
        scratch_shapes=[pltpu.VMEM((heads, width, block), key.dtype)],
        name="pooled_cosines",
        cost_estimate=pl.CostEstimate(
            flops=count * (4 * length * dim + sum(2 * min(_LANES, dim - start) * (dim - start) for start in starts)),
            transcendentals=count * (heads * (length + 1) + 1),
            bytes_accessed=sum(each.size * each.dtype.itemsize for each in arrays) + 4 * count,
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=_LIMIT),
        interpret=interpret,
    )(*arrays)
    return found[0]


def _most_texts(heads: int, length: int, width: int, itemsize: int) -> int:
    """How many texts fit in fast memory at once, in whole registers; 0 or less if not even the image does."""
    dim = heads * width
    image = 2 * 2 * heads * length * -(-width // _LANES) * _LANES * itemsize
    shared = 2 * dim * (dim * itemsize + 4 * _LANES)
    # Query, target and mixed values of a text, and its logits, weights and pooled channels, of one head or block.
    text = dim * (2 * itemsize + 2 * 4 + itemsize) + length * (4 + itemsize) + 2 * 4 * _LANES
    return (_MEMORY - image - shared) // (text * _LANES) * _LANES


def _all_texts(array: Any) -> pl.BlockSpec:
    """An array that every block of texts needs whole."""
    return pl.BlockSpec(array.shape, lambda _: (0,) * array.ndim)


def _some_texts(array: Any, block: int) -> pl.BlockSpec:
    """An array with the texts along its last axis; the last block may reach beyond it."""
    return pl.BlockSpec((*array.shape[:-1], block), lambda step: (*(0,) * (len(array.shape) - 1), step))


def _score(key: Any, value: Any, query: Any, target: Any, triangle: Any, bias: Any, out: Any, mixed: Any) -> None:
    """The kernel: of a block of texts, to their cosines [1, block]; `mixed` is memory to work in."""

    def mix(head: Any, _: None) -> None:
        logits = jnp.matmul(key[head], query[head], preferred_element_type=jnp.float32)
        highest = jnp.maximum(logits.max(axis=0, keepdims=True), 0)  # 0 is the empty slot's logit
        weights = jnp.exp(logits - highest)
        total = weights.sum(axis=0, keepdims=True) + jnp.exp(-highest)
        over_tokens = (((0,), (0,)), ((), ()))
        sums = lax.dot_general(
            value[head], weights.astype(value.dtype), over_tokens, preferred_element_type=jnp.float32
        )
        mixed[head] = (sums / total).astype(mixed.dtype)

    # Two heads at a time, so that one's softmax is computed beside the other's products.
    lax.fori_loop(0, key.shape[0], mix, None, unroll=min(2, key.shape[0]))
    features = mixed[...].reshape(triangle.shape[0], -1)
    squares = products = jnp.zeros(out.shape, jnp.float32)
    for start in range(0, triangle.shape[0], _LANES):
        rows = slice(start, min(start + _LANES, triangle.shape[0]))
        pooled = jnp.matmul(triangle[rows, start:], features[start:], preferred_element_type=jnp.float32) + bias[rows]
        squares += jnp.sum(pooled * pooled, axis=0, keepdims=True)
        products += jnp.sum(pooled * target[rows], axis=0, keepdims=True)
    out[...] = products / jnp.sqrt(jnp.maximum(squares, 1e-24))
