"""One training step: seconds and peak memory here and by the original's arithmetic in PyTorch, in one run.

    python benchmarks/train_step.py

Forward, backward and AdamW on the same random batch and parameters, ViT-B/16 shapes in float32. The sides take turns,
so that a busy machine slows both, each turn in a process of its own with nothing else running: a process that holds
gigabytes slows the other even while it waits, and peak memory is to be its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from sides import jax_step, resident_peak, torch_step
from tqdm import tqdm

SIDES = ("PyTorch", "flair_jax")


def main() -> None:
    """Prints the table, or runs one side for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-FLAIR", help="preset (default %(default)s)")
    parser.add_argument("--images", type=int, default=8, help="B (default %(default)s)")
    parser.add_argument("--captions", type=int, default=8, help="K (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="timed steps in a turn (default %(default)s)")
    parser.add_argument(
        "--unroll", type=int, default=1, help="layers in each step of our layer loop (default %(default)s)"
    )
    parser.add_argument("--remat", default="dots", help="rematerialisation of ours (default %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return

    # Huge pages for both: gigabytes are allocated anew in each step, and small pages would be most of the time.
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    peak: dict[str, float] = {}
    loss: dict[str, float] = {}
    for _ in tqdm(range(options.rounds), unit="round"):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            answer = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            seconds[side] += answer["seconds"]
            peak[side] = max(peak.get(side, 0), answer["peak"])
            loss[side] = answer["loss"]
    print(f"{options.model}, {options.images} images x {options.captions} captions, float32, {os.cpu_count()} cores")
    print(f"{'':<12}{'s/step':>10}{'speed':>10}{'peak GiB':>10}{'memory':>10}{'loss':>12}")
    base = statistics.median(seconds["PyTorch"])
    for side in SIDES:
        middle = statistics.median(seconds[side])
        print(
            f"{side:<12}{middle:>10.2f}{base / middle:>8.2f} x{peak[side] / 2**30:>10.2f}"
            f"{peak[side] / peak['PyTorch']:>8.2f} x{loss[side]:>12.5f}"
        )


def run_side(options: argparse.Namespace) -> None:
    """Prints as JSON the seconds of each step after the first, the peak memory in bytes and the last loss."""
    sizes = (options.model, options.images, options.captions)
    step = (
        torch_step(*sizes)
        if options.side == "PyTorch"
        else jax_step(*sizes, remat=options.remat, unroll=options.unroll)
    )
    step()  # compiles, and touches the memory for the first time
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "peak": resident_peak(), "loss": loss}), flush=True)


if __name__ == "__main__":
    main()
