"""Self-attention over rows of up to 256 tokens as one TPU kernel, forward and backward.

A row's logits fit the chip's fast memory, so that a kernel need not go over them in blocks (Dao et al. 2022 do, for
long rows), and none of them goes to slow memory: it reads queries, keys and values as one matrix product wrote them,
and writes what the next one reads. Heads narrower than the 128 lanes of a register are not cut out of it: other heads'
lanes are set to zero in one operand, which costs the matrix unit nothing and spares shifts across lanes.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from flair_jax.models.layout import map_rows, mesh_platform

LANES = 128
LONGEST = 256
_BUFFERS = 8 * 2**20  # bytes of fast memory for a kernel's arguments and results, each of them twice
_WORKING = 8 * 2**20  # and for what it computes in between
_MASKED = -1e30


class _Heads(NamedTuple):
    """What a kernel has to know besides its arrays: how many heads there are, and whether they are causal."""

    number: int
    causal: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def short_attention(
    projected: Float[Array, "B L W3"],
    bias: Float[Array, " W3"],
    segments: Int[Array, "B L"] | None,
    heads: int,
    causal: bool,
) -> Float[Array, "B L W"]:
    """`attend` of queries, keys and values that lie side by side. Elsewhere than on a TPU it is interpreted, slowly.

    Args:
      projected: a third of its last axis each; if a mesh divides the heads, a third of each of its parts. Up to
        `LONGEST` tokens in a row; the heads on a device fill whole registers of `LANES`, or less than one.
      bias: what is to be added to each position; float32, in the same order.
      segments: see `attend`.
      heads: how many there are on all devices.
      causal: see `attend`.
    """
    return _forward(projected, bias, segments, heads, causal)[0]


def _forward(
    projected: Array, bias: Array, segments: Array | None, heads: int, causal: bool
) -> tuple[Array, tuple[Array, Array | None]]:
    qkv = projected + bias.astype(projected.dtype)[None, None]
    run = functools.partial(_on_device, _mix, heads=_Heads(heads, causal), width=qkv.shape[-1])
    (mixed,) = map_rows(run, qkv, *_rows_of(segments))
    return mixed, (qkv, segments)


def _backward(
    heads: int, causal: bool, saved: tuple[Array, Array | None], gradient: Array
) -> tuple[Array, Array, None]:
    qkv, segments = saved
    run = functools.partial(_on_device, _mix_transposed, heads=_Heads(heads, causal), width=qkv.shape[-1])
    back, sums = map_rows(run, qkv, gradient.astype(qkv.dtype), *_rows_of(segments))
    return back, sums.sum(axis=(0, 1)), None


short_attention.defvjp(_forward, _backward)


def _rows_of(segments: Array | None) -> tuple[Array, ...]:
    return () if segments is None else (segments,)


def _on_device(kernel: Any, qkv: Array, *others: Array, heads: _Heads, width: int) -> tuple[Array, ...]:
    """Runs a kernel on one device's rows and heads."""
    heads = heads._replace(number=heads.number * qkv.shape[-1] // width)
    call = functools.partial(_call, kernel, heads=heads)
    compiled, interpreted = (functools.partial(call, interpret=each) for each in (False, True))
    platform = mesh_platform()
    if platform:
        return (compiled if platform == "tpu" else interpreted)(qkv, *others)
    return lax.platform_dependent(qkv, *others, tpu=compiled, default=interpreted)


def _call(kernel: Any, qkv: Array, *others: Array, heads: _Heads, interpret: bool) -> tuple[Array, ...]:
    batch, length, triple = qkv.shape
    width, transposed = triple // 3, kernel is _mix_transposed
    arrays = [each[:, None] if each.ndim == 2 else each for each in (qkv, *others)]
    # The compiler wants to know over which axes results differ, where the caller's `shard_map` keeps account of them.
    like = functools.partial(jax.ShapeDtypeStruct, manual_axis_type=jax.typeof(qkv).manual_axis_type)
    shapes: list[Any] = [like((batch, length, triple if transposed else width), qkv.dtype)]
    row_bytes = sum(2 * _padded_bytes(each) for each in (*arrays, *shapes)) // batch
    block = max(1, min(batch, _BUFFERS // row_bytes))
    steps = pl.cdiv(batch, block)
    blocks = [pl.BlockSpec((block, *each.shape[1:]), lambda step: (step, 0, 0)) for each in (*arrays, *shapes)]
    if transposed:
        shapes.append(like((steps, 1, triple), jnp.float32))
        blocks.append(pl.BlockSpec((1, 1, triple), lambda step: (step, 0, 0)))
    # Products of every pair of positions: two forward, and five backward, the logits' again.
    flops = (10 if transposed else 4) * batch * length**2 * width
    moved = sum(each.dtype.itemsize * math.prod(each.shape) for each in (*arrays, *shapes))
    call = pl.pallas_call(
        functools.partial(kernel, heads=heads, **({"batch": batch} if transposed else {})),
        grid=(steps,),
        in_specs=blocks[: len(arrays)],
        out_specs=blocks[len(arrays) :],
        out_shape=shapes,
        name=f"short_attention_{'backward' if transposed else 'forward'}",
        cost_estimate=pl.CostEstimate(flops, transcendentals=batch * heads.number * length**2, bytes_accessed=moved),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=block * row_bytes + _WORKING
        ),
        interpret=interpret,
    )
    return tuple(call(*arrays))


def _padded_bytes(array: Any) -> int:
    """Bytes of an array in fast memory, where its last axes are rounded up to whole registers."""
    *leading, rows, columns = array.shape
    rows, columns = -(-rows // 16) * 16, -(-columns // LANES) * LANES
    return int(array.dtype.itemsize * math.prod(leading) * rows * columns)


def _mix(qkv: Any, *others: Any, heads: _Heads) -> None:
    """The forward kernel: of a block of rows, to [block, L, W]."""
    *segments, out = others

    def row(i: Any, _: None) -> None:
        visible = _visible(qkv.shape[1], heads.causal, segments[0][i] if segments else None)
        for chunk, lanes in _chunks(qkv, heads):
            query, key, value = (qkv[i, :, each] for each in chunk)
            mixed = jnp.zeros(query.shape, jnp.float32)
            for own in lanes:
                weights = _softmax(jnp.where(own, query, 0), key, visible, heads, qkv.shape[-1] // 3)
                mixed = jnp.where(own, _dot(weights.astype(value.dtype), value, 0, 0), mixed)
            out[i, :, chunk[0]] = mixed.astype(out.dtype)

    lax.fori_loop(0, qkv.shape[0], row, None)


def _mix_transposed(qkv: Any, gradient: Any, *others: Any, heads: _Heads, batch: int) -> None:
    """The backward kernel: gradients [block, L, 3 W], and their sum over rows and positions [1, 1, 3 W], the bias's."""
    *segments, out, sums = others
    sums[...] = jnp.zeros(sums.shape, sums.dtype)
    scale, block = _scale(heads, qkv.shape[-1] // 3), qkv.shape[0]
    first = pl.program_id(0) * block

    def row(i: Any, _: None) -> None:
        visible = _visible(qkv.shape[1], heads.causal, segments[0][i] if segments else None)
        for chunk, lanes in _chunks(qkv, heads):
            query, key, value = (qkv[i, :, each] for each in chunk)
            above = gradient[i, :, chunk[0]]
            found = [jnp.zeros(query.shape, jnp.float32)] * 3
            for own in lanes:
                weights = _softmax(jnp.where(own, query, 0), key, visible, heads, qkv.shape[-1] // 3)
                products = weights * _dot(value, jnp.where(own, above, 0), 1, 1)
                logits = (products - weights * products.sum(axis=0, keepdims=True)) * scale
                logits, weights = logits.astype(key.dtype), weights.astype(key.dtype)
                new = (_dot(logits, key, 0, 0), _dot(logits, query, 1, 0), _dot(weights, above, 1, 0))
                found = [jnp.where(own, one, other) for one, other in zip(new, found, strict=True)]
            for columns, each in zip(chunk, found, strict=True):
                out[i, :, columns] = each.astype(out.dtype)
                total = each.sum(axis=0, keepdims=True)
                if batch % block:  # the last block reaches beyond the last row
                    total = jnp.where(first + i < batch, total, 0)
                sums[0, :, columns] += total

    lax.fori_loop(0, block, row, None)


def _chunks(qkv: Any, heads: _Heads) -> list[tuple[tuple[slice, slice, slice], list[Array]]]:
    """Columns of queries, keys and values of each register of lanes, and the lanes [1, lanes] of each head in it."""
    width = qkv.shape[-1] // 3
    lanes, head = min(LANES, width), width // heads.number
    numbers = lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
    own = [(numbers >= first) & (numbers < first + head) for first in range(0, lanes, head)]
    columns = lambda first: slice(first, first + lanes)  # noqa: E731
    return [
        ((columns(first), columns(width + first), columns(2 * width + first)), own) for first in range(0, width, lanes)
    ]


def _visible(length: int, causal: bool, segments: Array | None) -> Array | None:
    """Whether a key, along the first axis, is seen by a query, along the second; None: all are by all."""
    shape, visible = (length, length), None
    if causal:
        visible = lax.broadcasted_iota(jnp.int32, shape, 0) <= lax.broadcasted_iota(jnp.int32, shape, 1)
    if segments is not None:
        rows = jnp.broadcast_to(segments, shape)
        same = rows == rows.T
        visible = same if visible is None else visible & same
    return visible


def _softmax(query: Array, key: Array, visible: Array | None, heads: _Heads, width: int) -> Array:
    """Float32 weights [keys, queries]: maxima and sums go over the first axis, where the vector unit is at its best."""
    logits = _dot(key, query, 1, 1) * _scale(heads, width)
    if visible is not None:
        logits = jnp.where(visible, logits, _MASKED)
    powers = jnp.exp(logits - logits.max(axis=0, keepdims=True))
    return powers / powers.sum(axis=0, keepdims=True)


def _scale(heads: _Heads, width: int) -> float:
    return (width // heads.number) ** -0.5


def _dot(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    axes = (((left_axis,), (right_axis,)), ((), ()))
    return lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
