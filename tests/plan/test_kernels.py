"""Kernels of Pallas in a plan: counted by the compiler's schedule, by what they state of themselves, or not at all."""

import functools
import os

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from flair_jax.models.transformer import Block
from flair_jax.plan import kernels
from flair_jax.plan.bundles import count_cycles
from flair_jax.plan.costs import program_costs
from flair_jax.plan.topology import find_topology
from flair_jax.train.flops import Chip, count_flops, find_chip

STATED = pl.CostEstimate(flops=2 * 256**3, bytes_accessed=10**5, transcendentals=0)
LAYERS = 3


def product(x: jax.Array, cost: pl.CostEstimate | None = STATED, *, dynamic: bool = False) -> jax.Array:
    """x @ x in two steps; `dynamic`: with a loop inside as long as the step's number."""

    def kernel(rows, whole, out):
        out[...] = jnp.dot(rows[...], whole[...], preferred_element_type=jnp.float32)
        if dynamic:
            jax.lax.fori_loop(0, pl.program_id(0), lambda _, value: value * pl.program_id(0), 1)

            @pl.loop(0, pl.program_id(0))
            def _(_):
                out[...] += 1.0

    return pl.pallas_call(
        kernel,
        grid=(2,),
        in_specs=[pl.BlockSpec((128, 256), lambda i: (i, 0)), pl.BlockSpec((256, 256), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((128, 256), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((256, 256), jnp.float32),
        cost_estimate=cost,
        name="product",
    )(x, x)


@functools.cache
def compiled(topology: str, *functions) -> str:
    """Optimised HLO of functions of [256, 256], the first in a loop of LAYERS."""
    first, *others = functions

    def step(x: jax.Array) -> jax.Array:
        layer = lambda x, _: (first(x).astype(x.dtype), None)  # noqa: E731
        return jax.lax.scan(layer, x, length=LAYERS)[0] + sum(other(x).astype(x.dtype) for other in others)

    device = jax.sharding.SingleDeviceSharding(find_topology(topology).devices[0])
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=device)
    return jax.jit(step).lower(x).compile().as_text()


def peak_seconds(chip: Chip) -> float:
    """Of what a product states, at the chip's peak rates."""
    return LAYERS * max(STATED.flops / chip.flops, STATED.bytes_accessed / chip.memory_bandwidth)


@pytest.mark.parametrize(("topology", "kind"), [("v5e:2x2", "v5e"), ("v5p:2x2x1", "v5p"), ("v6e:2x2", "v6e")])
def test_counted_by_the_schedule(topology: str, kind: str) -> None:
    chip, before = find_chip(kind), dict(os.environ)
    costs, (kernel,) = program_costs(compiled(topology, product), chip)
    assert dict(os.environ) == before
    assert kernel.name.startswith("product/")
    assert (kernel.times, kernel.counted_by, kernel.flops) == (LAYERS, "schedule", LAYERS * STATED.flops)
    # Two steps of a product of [128, 256] by [256, 256]: some hundred to some thousand cycles each, and no more than
    # ten times what the peak takes, of so small a product.
    cycles = kernel.seconds / LAYERS * chip.clock
    assert 2 * 100 < cycles < 2 * 5000
    (cost,) = [cost for cost in costs if cost.kind == "kernel"]
    assert cost.seconds == kernel.seconds > cost.roofline
    assert cost.roofline == pytest.approx(peak_seconds(chip))


def test_the_towers_own_kernels_are_counted_by_their_schedules() -> None:
    """A block over packed rows, as in a training step: the forward kernel, and the backward one."""
    block = Block(2, 128, causal=True, activation="gelu", init_std=None, dtype=jnp.dtype("bfloat16"))
    x, segments = jax.ShapeDtypeStruct((16, 32, 128), jnp.float32), jax.ShapeDtypeStruct((16, 32), jnp.int32)
    params = jax.eval_shape(block.init, jax.random.key(0), x, segments)
    mesh = jax.make_mesh((1, 1), ("data", "tensor"), devices=find_topology("v5e:2x2").devices[:1])
    place = lambda leaf: leaf.update(sharding=jax.NamedSharding(mesh, jax.P()))  # noqa: E731
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(lambda params, *inputs: block.apply(params, *inputs).sum()))
        text = gradient.lower(*jax.tree.map(place, (params, x, segments))).compile().as_text()
    costs, found = program_costs(text, find_chip("v5e"))
    names = {kernel.name.partition("/")[0] for kernel in found}
    assert names == {"short_attention_forward", "short_attention_backward"}
    assert {kernel.counted_by for kernel in found} == {"schedule"}
    assert all("/attention/" in cost.op_name for cost in costs if cost.kind == "kernel")


def test_what_has_no_schedule_is_counted_as_it_states_or_named(monkeypatch) -> None:
    """A loop of unknown length; the one kernel says what it costs, the other nothing."""
    chip = find_chip("v5e")
    unknown = lambda x: product(x, None, dynamic=True)  # noqa: E731
    stated = lambda x: product(x, dynamic=True)  # noqa: E731
    costs, found = program_costs(compiled("v5e:2x2", stated, unknown), chip)
    by = {kernel.counted_by: kernel for kernel in found}
    assert set(by) == {"cost estimate", ""}
    assert by["cost estimate"].seconds == pytest.approx(peak_seconds(chip))
    assert by[""].seconds == 0
    assert len([cost for cost in costs if cost.kind == "kernel"]) == 2
    # Where the compiler cannot be asked.
    monkeypatch.setattr(kernels, "_ALONE", {})
    _, (kernel,) = program_costs(compiled("v5e:2x2", product), chip)
    assert kernel.counted_by == "cost estimate"


SCHEDULE = """
= control target key start
LB: loop body
     0   :  { %s9_s1 = smov 0 ;;  %s8_s2 = smov 2 }
   0x1 LB: > { %s5_s1 = sphi %s9_s1, %s6_s1 } /* Start region 7 :: Start region 8 */
   0x2 LB: >> { %s3_s2 = sphi %s8_s2, %s4_s2 } /* Start region 9 */
   0x3   : >> { %s4_s2 = sadd.s32 3, %s3_s2 }
   0x4   : >> { %p4_p1 = scmp.ge.s32.totalorder %s4_s2, 9 /* loop exit test */ }
   0x5   : >> { %11 = sbr.rel (!%p4_p1) target = $region9 }
   0x6   : >> {}
   0x7   : >> {}
   0x8   : >> {}
   0x9   : >> {}
   0xa   : > { %12 = sbr.rel (%p4_p1) target = $region20 ;; %s6_s1 = sadd.s32 1, %s5_s1 }
   0xb   : > { %p5_p2 = scmp.ge.s32.totalorder (%p4_p1), %s6_s1, 34 /* loop exit test */ }
   0xc PF: > { %13 = sbr.rel (!%p5_p2) target = $region7 } /* Start region 20 */
   0xd   : > {}
   0xe   : > {}
   0xf   : > {}
  0x10   : > {}
  0x11   :  {} /* exit bundle */
"""


def test_bundles_of_loops_count_as_often_as_they_run() -> None:
    assert count_cycles(SCHEDULE) == 2 + 34 * (8 + 3 * 8)  # the inner loop counts from 2 to 9 by 3
    assert count_cycles(SCHEDULE.replace("%s4_s2, 9", "%s4_s2, %s1_s1")) is None
    # Of a grid's loop, two runs do nothing but fill and empty the pipeline.
    grid = SCHEDULE.replace("%s6_s1 }", "%s6_s1 /* phi copy :: iteration index, stage = 0 */ }")
    assert count_cycles(grid) == 2 + 32 * (8 + 3 * 8)


@pytest.mark.parametrize(("order", "expected"), [("lt", 2 + 34 * (8 + 1 + 3 * 8)), ("gt", None)])
def test_a_last_block_that_may_be_shorter_counts_as_the_others(order: str, expected: int | None) -> None:
    """The lesser of the rows that are left and the rows of a block; the greater is no limit."""
    lesser = "%s1_s1 = scalar_select /*predicate=*/%p1_p1, /*on_true=*/%s2_s1, /*on_false=*/9"
    bundle = f"   0xa   : > {{ %p1_p1 = scmp.{order}.s32.totalorder %s2_s1, 9  ;;  {lesser} }}\n   0xa   : > {{ %12"
    ragged = SCHEDULE.replace("%s4_s2, 9", "%s4_s2, %s1_s1").replace("   0xa   : > { %12", bundle)
    assert count_cycles(ragged) == expected


def test_flops_of_a_traced_kernel() -> None:
    """As stated, or as often as its grid has steps; in a step's `shard_map`, which is the loss's, none."""
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)
    assert count_flops(jax.make_jaxpr(product)(x)) == STATED.flops
    assert count_flops(jax.make_jaxpr(lambda x: product(x, None))(x)) == 2 * 256**3
    assert count_flops(jax.make_jaxpr(product)(x), within="shard_map") == 0
