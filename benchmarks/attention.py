"""What the TPU compiler estimates for each tower, with its own attention and with the project's kernel.

    python benchmarks/attention.py --chip v5e
    python benchmarks/attention.py --chip v5e --policies

Twelve layers of ViT-B/16-FLAIR's towers, forward and backward, in bfloat16 with `remat=full`, on one chip that need not
be attached (extra `tpu`). The compiler gives no estimate for kernels: theirs are the bundles of its final schedule, one
a cycle, times their runs, without waiting for transfers.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
# Rows, tokens, width and heads; whether causal, and packed.
TOWERS = {
    "text, 1,024 captions padded to 77": (1024, 77, 512, 8, True, False),
    "text, the same in 328 rows of 128": (328, 128, 512, 8, True, True),
    "image, 128 images of 197 tokens": (128, 197, 768, 12, False, False),
}
LAYERS = 12


def main() -> None:
    """Prints the table, or compiles one tower or one kernel for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=CHIPS, default="v5e", help="planned for (default %(default)s)")
    parser.add_argument("--kernels", action="store_true", help="only the kernels, which takes a minute")
    parser.add_argument(
        "--policies",
        action="store_true",
        help="instead: time and memory with each rematerialisation, and with a residual stream in bfloat16",
    )
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        tower, attention, *others = options.part
        if attention == "kernel":
            print(kernel_alone(options.chip, tower))
        else:
            print(*compiled_tower(options.chip, tower, attention, *others))
        return
    if options.policies:
        print_policies(options.chip)
        return
    print(f"{options.chip}, one chip, {LAYERS} layers, forward and backward")
    for tower in TOWERS:
        kernel = 1000 * kernel_seconds(options.chip, tower)
        print(f"{tower:<36} the kernels alone {kernel:7.1f} ms", flush=True)
        if not options.kernels:
            base, ours = (
                float(run_part(options.chip, tower, attention, "full", "float32").split()[0])
                for attention in ("xla", "pallas")
            )
            print(
                f"{'':<36} xla {base:7.1f} ms, pallas {ours + kernel:7.1f} ms, {(ours + kernel) / base - 1:+.0%}",
                flush=True,
            )


def print_policies(chip: str) -> None:
    """Prints the table of `--policies`, the kernels' time left out."""
    print(f"{chip}, one chip, {LAYERS} layers, forward and backward, attention=pallas, kernels not counted")
    for tower in list(TOWERS)[1:]:
        for remat, residual in (*((each, "float32") for each in ("dots", "attention", "full")), ("full", "bfloat16")):
            seconds, memory = map(float, run_part(chip, tower, "pallas", remat, residual).split())
            settings = f"remat={remat:<10} residual_dtype={residual:<9}"
            print(f"{tower:<36} {settings} {seconds:6.1f} ms {memory:5.1f} GB", flush=True)


def run_part(chip: str, tower: str, attention: str, *others: str, dump: str = "") -> str:
    """The last line of a process of its own: the compiler takes its flags only when it is loaded."""
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_STDERR_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    flags = f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true" if dump else ""
    environment = os.environ | quiet | {"JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": flags}
    command = [sys.executable, __file__, "--chip", chip, "--part", tower, attention, *others]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[
        -1
    ]


def kernel_seconds(chip: str, tower: str) -> float:
    """Of all runs of both kernels: the forward one runs twice in each layer, since it is recomputed."""
    with tempfile.TemporaryDirectory() as folder:
        steps, block, clock = run_part(chip, tower, "kernel", dump=folder).split(",")
        cycles = 0
        for name, runs in (("forward", 2), ("backward", 1)):
            (schedule,) = Path(folder).glob(f"*short_attention_{name}*[0-9]-final_bundles.txt")
            # A bundle's line marks by ">" how many loops it is in: over blocks of rows, and over rows of a block.
            depths = re.findall(r"^\s*(?:0x)?[0-9a-f]+\s+(?:[A-Z]{2})?\s*: (>*)", schedule.read_text(), re.MULTILINE)
            once = [sum(len(depth) == loops for depth in depths) for loops in range(3)]
            per_block = once[1] + once[2] * int(block.split("/")[name == "backward"])
            cycles += runs * LAYERS * (once[0] + per_block * int(steps.split("/")[name == "backward"]))
    return cycles / float(clock)


def kernel_alone(chip: str, tower: str) -> str:
    """Compiles both kernels; returns steps of the grid, rows of a block, forward/backward, and cycles a second."""
    import jax
    import jax.numpy as jnp

    from flair_jax.models.short_attention import short_attention

    rows, length, width, heads, causal, packed = TOWERS[tower]
    clock, place = chip_of(chip)
    arrays = [place((rows, length, 3 * width), jnp.bfloat16), place((3 * width,), jnp.float32)]
    arrays += [place((rows, length), jnp.int32)] if packed else []

    def gradients(projected, bias, *segments):
        def total(projected, bias):
            return short_attention(projected, bias, *(segments or [None]), heads, causal).astype(jnp.float32).sum()

        return jax.value_and_grad(total, argnums=(0, 1))(projected, bias)

    traced = jax.jit(gradients).trace(*arrays)
    traced.lower().compile()
    grids = re.findall(r"grid=\((\d+),\)", str(traced.jaxpr).replace(" ", ""))
    forward, backward = int(grids[0]), int(grids[-1])
    return f"{forward}/{backward},{-(-rows // forward)}/{-(-rows // backward)},{clock}"


def compiled_tower(chip: str, tower: str, attention: str, remat: str, residual: str) -> tuple[float, float]:
    """Milliseconds that the compiler estimates, kernels left out, and gigabytes of temporaries."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from flair_jax.models.transformer import Block, run_stacked
    from flair_jax.plan.hlo import read_program

    rows, length, width, heads, causal, packed = TOWERS[tower]

    class Tower(nn.Module):
        @nn.compact
        def __call__(self, x, segments):
            block = Block(
                *(heads, 4 * width, causal, "gelu", None, jnp.dtype("bfloat16")),
                implementation=attention,
                name="blocks",
            )
            return run_stacked(block, x, segments, layers=LAYERS, remat=remat, unroll=1, residual_dtype=residual)

    clock, place = chip_of(chip)
    x, segments = place((rows, length, width), jnp.float32), place((rows, length), jnp.int32) if packed else None
    params = jax.eval_shape(Tower().init, jax.random.key(0), x, segments)
    params = jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), params)

    def step(params, x, above, segments):
        value, back = jax.vjp(lambda params, x: Tower().apply(params, x, segments), params, x)
        return value, back(above)

    program = jax.jit(step).lower(params, x, x, segments).compile()
    return 1000 * read_program(program.as_text()).cycles / clock, program.memory_analysis().temp_size_in_bytes / 1e9


def chip_of(name: str):
    """Cycles a second of a chip, and a function of shape and dtype that gives an array there."""
    import jax

    from flair_jax.plan.topology import find_topology

    topology = find_topology(CHIPS[name])
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    return topology.chip.clock, lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


if __name__ == "__main__":
    main()
