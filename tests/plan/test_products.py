"""FLOPs of matrix products in optimised HLO, as the TPU compiler writes them."""

import jax
import jax.numpy as jnp
import pytest

from flair_jax.plan.operations import read_operations
from flair_jax.plan.products import product_flops
from flair_jax.plan.topology import find_topology


def flops(text: str) -> float:
    """Of one run of a program."""
    parsed, runs = read_operations(text)
    return sum(run.times * product_flops(run.operation, run.computation, parsed) for run in runs)


LINE = """HloModule one

ENTRY %main (a: f32[2,5,3], b: f32[2,3,7]) -> f32[2,5,7] {{
  %a = f32[{}]{{2,1,0}} parameter(0)
  %b = f32[{}]{{2,1,0}} parameter(1)
  ROOT %product = f32[{}]{{2,1,0}} {}
}}
"""


@pytest.mark.parametrize(
    ("left", "right", "result", "operation", "expected"),
    [
        ("2,5,3", "2,3,7", "2,5,7", "dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}", 2 * 2 * 5 * 7 * 3),
        # A batch of products, written as a window that moves by as much as it sees.
        (
            *("2,5,3", "2,3,7", "2,5,7"),
            "convolution(%a, %b), window={size=2 stride=1 pad=0_0 lhs_dilate=2}, dim_labels=0bf_0io->0bf",
            2 * 5 * 7 * 3 * 2,
        ),
        # Five places, a window of three, and one of padding on each side: 2 + 3 + 3 + 3 + 2 values are seen.
        (
            *("5,2,3", "3,3,7", "5,2,7"),
            "convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=0bf_0io->0bf",
            2 * 2 * 7 * 3 * 13,
        ),
    ],
)
def test_of_one_operation(left, right, result, operation, expected) -> None:
    assert flops(LINE.format(left, right, result, operation)) == expected


def test_of_a_program_for_a_tpu() -> None:
    """Values and gradients of batched products in a loop: as many FLOPs as the products have in the code."""
    device = jax.sharding.SingleDeviceSharding(find_topology("v5e:2x2").devices[0])

    def attention(x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            logits = jnp.einsum("bqhc,bkhc->bhqk", x, x)
            return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.relu(logits), x), None

        return jax.lax.scan(layer, x, None, length=3)[0].sum()

    x = jax.ShapeDtypeStruct((4, 64, 2, 32), jnp.bfloat16, sharding=device)
    program = jax.jit(jax.grad(attention)).lower(x).compile()
    product = 2 * 4 * 2 * 64 * 64 * 32
    # Two products in each layer, and two more for the gradient of each; the last layer's is of a sum.
    assert flops(program.as_text()) == pytest.approx(3 * (2 + 4) * product, rel=0.12)
