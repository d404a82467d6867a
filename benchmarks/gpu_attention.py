"""Exact attention by every implementation at hand, timed in turns and compared with float32."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]


class Turns(NamedTuple):
    """How often a side is timed, and how often it is called each time."""

    count: int
    calls: int


@dataclasses.dataclass(frozen=True)
class Attention:
    """Self-attention to be timed: B sequences of L tokens, H heads of width C; `texts`: lengths of packed ones."""

    name: str
    sequences: int
    tokens: int
    heads: int
    width: int
    causal: bool
    texts: tuple[int, ...] = ()

    def segments(self) -> Any:
        """int32 [B, L], the number of each token's text; None if a sequence is one text."""
        if not self.texts:
            return None
        row = np.repeat(np.arange(len(self.texts), dtype=np.int32), self.texts)
        return np.broadcast_to(row, (self.sequences, self.tokens))

    def pairs(self) -> float:
        """Pairs of tokens in a sequence of which one attends to the other."""
        lengths = self.texts or (self.tokens,)
        return sum(n * (n + 1) / 2 if self.causal else n**2 for n in lengths)


def in_turns(sides: dict[str, Callable[[], Any]], turns: Turns) -> dict[str, float]:
    """Median seconds of a call of each side, each of which returns when its result is there."""
    for side in sides.values():
        side(), side()  # compiles, and touches the memory for the first time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns.count):
        for name, side in sides.items():
            start = time.perf_counter()
            for _ in range(turns.calls):
                side()
            seconds[name].append((time.perf_counter() - start) / turns.calls)
    return {name: statistics.median(times) for name, times in seconds.items()}


def blocking(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call of a compiled function that returns when the device is done."""
    import jax

    return lambda: jax.block_until_ready(function(*arguments))


def attention_rows(case: Attention, turns: Turns) -> list[Row]:
    """Times of each implementation, forward, and forward with backward, and how far its values are from float32's."""
    import jax
    import jax.numpy as jnp

    shape = (4, case.sequences, case.tokens, case.heads, case.width)
    query, key, value, weight = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    segments = case.segments()
    on_gpu = jax.default_backend() == "gpu"

    def backward(implementation: Callable[..., Any]) -> Callable[..., Any]:
        def loss(inputs: Any, weight: Any) -> Any:
            return jnp.sum(implementation(*inputs).astype(jnp.float32) * weight.astype(jnp.float32))

        return jax.grad(loss)

    def exact(*inputs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            mask = None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None]
            return jax.nn.dot_product_attention(*inputs, mask=mask, is_causal=case.causal, implementation="xla")

    inputs = (query, key, value)
    wide = tuple(array.astype(jnp.float32) for array in inputs)
    # A token attends to all, or with those before it to half: 2 products of 2 FLOPs; the backward pass has 4 more.
    forward_flops = 4 * case.sequences * case.heads * case.width * case.pairs()
    rows = []
    for direction, flops, expected in (
        ("forward", forward_flops, exact(*wide)),
        ("forward and backward", 3 * forward_flops, backward(exact)(wide, weight)),
    ):
        group = f"{case.name}, {direction}: {case.sequences} x {case.tokens} tokens, {case.heads} heads of {case.width}"
        calls, found = {}, {}
        for name, (implementation, needs_gpu) in _IMPLEMENTATIONS.items():
            row: Row = {"group": group, "name": name, "flops": flops}
            rows.append(row)
            if needs_gpu and not on_gpu and name != "Pallas":
                row["note"] = _NEEDS_A_GPU
                continue
            attend = functools.partial(implementation, causal=case.causal, segments=segments)
            call = (
                blocking(jax.jit(attend), *inputs)
                if direction == "forward"
                else blocking(jax.jit(backward(attend)), inputs, weight)
            )
            try:
                row["difference"] = _difference(call(), expected)
            except Exception as error:  # an implementation may refuse a shape or a card, in words of its own
                row["note"] = f"failed: {(str(error).strip() or type(error).__name__).splitlines()[0][:90]}"
                continue
            if needs_gpu and not on_gpu:
                row["note"] = f"{_NEEDS_A_GPU}; only the values, interpreted"
                continue
            calls[name], found[name] = call, row
        for name, seconds in in_turns(calls, turns).items():
            found[name]["seconds"] = seconds
    return rows


def _difference(found: Any, expected: Any) -> float:
    """The largest difference of an array, relative to its largest value; of several, the largest of these."""
    import jax

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    arrays = ((np.asarray(one, np.float32), np.asarray(other, np.float32)) for one, other in pairs)
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in arrays)


def _of_the_towers(query: Any, key: Any, value: Any, *, causal: bool, segments: Any, implementation: str) -> Any:
    from flair_jax.models.attention import attend

    joined = (array.reshape(*array.shape[:2], -1) for array in (query, key, value))
    heads = query.shape[2]
    mixed = attend(*joined, heads=heads, causal=causal, segments=segments, implementation=implementation)
    return mixed.reshape(query.shape)


def _pallas(query: Any, key: Any, value: Any, *, causal: bool, segments: Any) -> Any:
    """JAX's own Pallas kernel. It takes whole blocks: what fills the last one is a segment that no token attends to."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.gpu.attention import mha

    count = query.shape[1]
    padded = -(-count // _PALLAS_BLOCK) * _PALLAS_BLOCK
    fill = [(0, 0), (0, padded - count), (0, 0), (0, 0)]
    own = jnp.zeros(query.shape[:2], jnp.int32) if segments is None else jnp.asarray(segments)
    segments = jnp.pad(own, fill[:2], constant_values=-1)
    mixed = mha(
        *(jnp.pad(array, fill) for array in (query, key, value)),
        segments,
        sm_scale=query.shape[-1] ** -0.5,
        causal=causal,
        interpret=jax.default_backend() != "gpu",
    )
    return mixed[:, :count]


_NEEDS_A_GPU = "needs a GPU"
_PALLAS_BLOCK = 128
# Name -> function, and whether it needs a GPU.
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Any], bool]] = {
    "XLA": (functools.partial(_of_the_towers, implementation="xla"), False),
    "cuDNN": (functools.partial(_of_the_towers, implementation="cudnn"), True),
    "Pallas": (_pallas, True),
}
