"""The TPU compiler's estimates held against the data sheets, for operations whose work is known: docs/plan.md's table.

    python benchmarks/calibrate.py

Needs the extra `tpu`, but no TPU; a minute of CPU time. Each operation is compiled alone, for one chip. Printed is the
time that its FLOPs take at the chip's peak, or its operands and results at the memory's bandwidth where that is longer,
as a share of the estimate. Nothing is measured: 100 % is what no chip exceeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


class Case(NamedTuple):
    """An operation, its operands' shapes, and the FLOPs of its products."""

    name: str
    function: Callable[..., Any]
    shapes: Sequence[tuple[int, ...]]
    flops: float = 0.0
    dtype: Any = jnp.bfloat16


def product(rows: int, inner: int, columns: int, name: str) -> Case:
    """A product of two matrices."""
    return Case(name, jnp.matmul, [(rows, inner), (inner, columns)], 2.0 * rows * inner * columns)


TEXTS, IMAGES = 1024 * 77, 128 * 197  # tokens of cc3m_recap's padded step on each of 8 chips
ROWS, HEADS, TOKENS, WIDTH = 1024, 8, 77, 64
CASES = [
    product(4096, 4096, 4096, "product of 4,096 a side"),
    product(8192, 8192, 8192, "product of 8,192 a side"),
    product(TEXTS, 512, 2048, "text MLP, up"),
    product(TEXTS, 2048, 512, "text MLP, down"),
    product(IMAGES, 768, 3072, "vision MLP, up"),
    product(IMAGES, 3072, 768, "vision MLP, down"),
    Case(
        "XLA's attention, heads of 64",
        lambda query, key, value: jax.nn.dot_product_attention(query, key, value, is_causal=True),
        [(ROWS, TOKENS, HEADS, WIDTH)] * 3,
        4.0 * ROWS * HEADS * TOKENS**2 * WIDTH,
    ),
    Case("bfloat16, 2 x + 1", lambda x: 2 * x + 1, [(TEXTS, 512)]),
    Case("float32, x + y", jnp.add, [(TEXTS, 512)] * 2, dtype=jnp.float32),
    Case("float32, softmax", jax.nn.softmax, [(ROWS * HEADS * TOKENS, 128)], dtype=jnp.float32),
    Case("bfloat16, transpose", jnp.transpose, [(16384, 2048)]),
]


def main() -> None:
    """Prints the table in Markdown."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_STDERR_LOG_LEVEL": "3"}
    print("| operation | " + " | ".join(CHIPS) + " |")
    print("| --- " * (1 + len(CHIPS)) + "|")
    for case in CASES:
        shares = [100 * share(case, topology) for topology in CHIPS.values()]
        print(f"| {case.name} | " + " | ".join(f"{each:.0f} %" for each in shares) + " |", flush=True)


def share(case: Case, topology: str) -> float:
    """At which share of the chip's peak rates the compiler estimates that an operation runs."""
    from flair_jax.plan.costs import program_costs
    from flair_jax.plan.topology import find_topology

    found = find_topology(topology)
    device = jax.sharding.SingleDeviceSharding(found.devices[0])
    operands = [jax.ShapeDtypeStruct(shape, case.dtype, sharding=device) for shape in case.shapes]
    program = jax.jit(case.function).lower(*operands).compile()
    costs, _ = program_costs(program.as_text() or "", found.chip)
    seconds = sum(cost.seconds for cost in costs)
    moved = [*operands, jax.eval_shape(case.function, *operands)]
    bandwidth = sum(each.size * each.dtype.itemsize for each in moved) / found.chip.memory_bandwidth
    return max(case.flops / found.chip.flops, bandwidth) / seconds


if __name__ == "__main__":
    main()
