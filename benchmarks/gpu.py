"""What a GPU gives: training step, scoring and attention in bfloat16, as shares of its measured matmul peak.

    python benchmarks/gpu.py

One table, and JSON with --json. The peak is that of a large bfloat16 matrix product in the same run. Each part runs in
a process of its own, so that its peak memory is its own; within a part, sides take turns. Without a GPU the sizes are
tiny and what needs one is marked: that shows that all of it runs, and measures nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from gpu_parts import FULL, PARTS, TINY


def main() -> None:
    """Prints the table, or runs one part for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help=f"batch of the training step (default {FULL.images})")
    parser.add_argument("--remat", default="none", help="rematerialisation of our training step (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the rows as JSON, too")
    parser.add_argument("--tiny", action="store_true", help="sizes that prove that it runs; without a GPU always")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = TINY if options.tiny else FULL
    if options.images:
        sizes = dataclasses.replace(sizes, images=options.images)
    if options.part:
        print(json.dumps(PARTS[options.part](sizes, options.remat)))
        return

    (device,) = run_part("device", options)
    options.tiny = options.tiny or device["platform"] != "gpu"
    sizes = TINY if options.tiny else sizes
    (peak,) = run_part("matmul", options)
    rows = [row for part in list(PARTS)[2:] for row in run_part(part, options)]
    for row in rows:
        if "flops" in row and "seconds" in row:
            row["share_of_peak"] = row["flops"] / row["seconds"] / peak["flops_per_second"]
    print(f"{sizes.model}, bfloat16, on {device['kind']}, JAX {device['jax']}")
    if options.tiny:
        print("tiny sizes, which show that all of this runs; the figures say nothing about a GPU")
    print(f"measured peak: {peak['flops_per_second'] / 1e12:.3g} TFLOP/s (bfloat16 matmul, side {peak['side']:,})")
    print_table(rows)
    if options.json:
        document = {"device": device, "peak": peak, "sizes": dataclasses.asdict(sizes), "rows": rows}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)


def run_part(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A part's rows, from a process of its own; one row that says why, if it fails."""
    words = ["--part", name, "--remat", options.remat]
    words += ["--images", str(options.images)] if options.images else []
    words += ["--tiny"] if options.tiny else []
    # PyTorch's part makes its parameters with JAX, which must leave the GPU alone there.
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if "PyTorch" in name else {})
    print(f"{name} ...", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, __file__, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        if name in ("device", "matmul"):
            sys.exit(f"{name}: {why}")
        return [{"group": name.split(", ")[0], "name": name.split(", ")[-1], "note": f"failed: {why[:100]}"}]
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """One line a row, under the heading of its group."""
    head = f"{'':<38}{'ms':>10}{'per second':>20}{'TFLOP/s':>10}{'of peak':>9}{'peak GiB':>10}{'difference':>12}"
    print(head)
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(group)
        if "seconds" not in row:
            difference = f" (difference {row['difference']:.1e})" if "difference" in row else ""
            print(f"  {row['name']:<36}  {row['note']}{difference}")
            continue
        rate = f"{row['count'] / row['seconds']:,.0f} {row['unit']}" if "unit" in row else ""
        memory = f"{row['peak_bytes'] / 2**30:.2f}" if "peak_bytes" in row else ""
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        print(
            f"  {row['name']:<36}{row['seconds'] * 1e3:>10.2f}{rate:>20}"
            f"{row['flops'] / row['seconds'] / 1e12:>10.3g}{row['share_of_peak']:>9.1%}{memory:>10}{difference:>12}"
        )


if __name__ == "__main__":
    main()
