"""The short-attention kernel, compiled for TPUs that are not there."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flair_jax.models.short_attention import short_attention
from flair_jax.models.transformer import Block, run_stacked
from flair_jax.plan.topology import find_topology

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
ROWS, TOKENS, WIDTH = 16, 128, 128


class Tower(nn.Module):
    """Two layers over packed rows; no word of who computes the attention."""

    @nn.compact
    def __call__(self, x, segments):
        block = Block(2, WIDTH, causal=True, activation="gelu", init_std=None, dtype=jnp.dtype("bfloat16"))
        return run_stacked(block, x, segments, layers=2, remat="full", unroll=1)


def compiled(function, chips: list[jax.Device], *shapes: jax.ShapeDtypeStruct, tensor: int = 1) -> str:
    mesh = Mesh(np.array(chips).reshape(-1, tensor), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P()))  # noqa: E731
        return jax.jit(function).lower(*jax.tree.map(place, shapes)).compile().as_text()


def kernels(text: str) -> set[str]:
    return set(re.findall(r"short_attention_\w+(?=[)/])", text))


def test_a_tower_runs_the_kernel_with_nothing_around_it() -> None:
    """By default, since it is compiled for TPUs, though JAX runs on a CPU here."""
    x = jax.ShapeDtypeStruct((ROWS, TOKENS, WIDTH), jnp.float32)
    segments = jax.ShapeDtypeStruct((ROWS, TOKENS), jnp.int32)
    params = jax.eval_shape(Tower().init, jax.random.key(0), x, segments)

    def gradients(params, x, segments):
        return jax.grad(lambda *inputs: Tower().apply(*inputs, segments).sum(), argnums=(0, 1))(params, x)

    text = compiled(gradients, find_topology(CHIPS["v5e"]).devices[:1], params, x, segments)
    assert kernels(text) == {"short_attention_forward", "short_attention_backward"}
    assert text.count('"tpu_custom_call"') == 3  # the forward kernel once more, where it is recomputed
    body = text.partition("\nENTRY ")[0]  # layers are in a loop
    moved = [line for line in body.splitlines() if re.search(rf"\[{ROWS},[0-9,]+\]\S* (copy|transpose)\(", line)]
    assert moved == []


@pytest.mark.parametrize(
    ("chip", "length", "heads", "head", "dtype", "packed"),
    [
        ("v5e", 77, 8, 64, "bfloat16", False),
        ("v5p", 128, 8, 64, "bfloat16", True),
        ("v6e", 128, 8, 64, "bfloat16", True),
        ("v6e", 197, 12, 64, "bfloat16", False),
        ("v5p", 50, 1, 64, "bfloat16", True),
        ("v5e", 256, 4, 64, "float32", True),
        ("v5e", 77, 8, 32, "bfloat16", True),
        ("v5e", 33, 3, 16, "bfloat16", False),
    ],
)
def test_shapes_that_the_rule_allows_compile(chip, length, heads, head, dtype, packed) -> None:
    rows, width = 6, heads * head
    projected, bias = (
        jax.ShapeDtypeStruct((rows, length, 3 * width), dtype),
        jax.ShapeDtypeStruct((3 * width,), "float32"),
    )
    segments = [jax.ShapeDtypeStruct((rows, length), jnp.int32)] if packed else []

    def gradients(projected, bias, *segments):
        loss = lambda *inputs: short_attention(*inputs, *(segments or [None]), heads, True).astype(jnp.float32).sum()  # noqa: E731
        return jax.grad(loss, argnums=(0, 1))(projected, bias)

    text = compiled(gradients, find_topology(CHIPS[chip]).devices[:1], projected, bias, *segments)
    assert "short_attention_backward" in kernels(text)


def test_heads_are_divided_over_chips_and_nothing_is_exchanged() -> None:
    projected, bias = (
        jax.ShapeDtypeStruct((8, 77, 3 * 256), jnp.bfloat16),
        jax.ShapeDtypeStruct((3 * 256,), jnp.float32),
    )
    attend = lambda *inputs: short_attention(*inputs, None, 4, True)  # noqa: E731
    text = compiled(attend, find_topology(CHIPS["v5e"]).devices, projected, bias, tensor=2)
    assert "bf16[4,77,384]" in text
    assert not re.search(r" (all-reduce|all-to-all|collective-permute)", text)
