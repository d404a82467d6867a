"""One training step: seconds and peak memory here and by the original's arithmetic in PyTorch, in one run.

    python benchmarks/train_step.py

Forward, backward and AdamW on the same random batch and parameters, ViT-B/16 shapes in float32. Captions have 41 tokens
on average, as drawn ones were measured to have: PyTorch pads them to 77, as the original does, and ours lie packed in
rows. The sides take turns, so that a busy machine slows both, each turn in a process of its own with nothing else
running: a process that holds gigabytes slows the other even while it waits, and peak memory is to be its own. The
losses of each step must be equal but for rounding, or it fails.
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
TOLERANCE = 1e-5  # of losses after up to two updates; float32, whose sums are in another order on each side


def main() -> None:
    """Prints the table, or runs one side for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-FLAIR", help="preset (default %(default)s)")
    parser.add_argument("--images", type=int, default=8, help="images in the batch (default %(default)s)")
    parser.add_argument("--captions", type=int, default=8, help="captions of each image (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="timed steps in a turn (default %(default)s)")
    parser.add_argument(
        "--unroll", type=int, default=1, help="layers in each step of our layer loop (default %(default)s)"
    )
    parser.add_argument("--remat", default="dots", help="rematerialisation of ours (default %(default)s)")
    parser.add_argument(
        "--row-tokens", type=int, default=128, help="of ours; 0: captions are padded (default %(default)s)"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return

    # Huge pages for both: gigabytes are allocated anew in each step, and small pages would be most of the time.
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    peak: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for _ in tqdm(range(options.rounds), unit="round"):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            answer = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            seconds[side] += answer["seconds"]
            peak[side] = max(peak.get(side, 0), answer["peak"])
            losses[side] = answer["losses"]
    print(f"{options.model}, {options.images} images x {options.captions} captions, float32, {os.cpu_count()} cores")
    print(f"{'':<12}{'s/step':>10}{'speed':>10}{'peak GiB':>10}{'memory':>10}{'loss':>12}")
    base = statistics.median(seconds["PyTorch"])
    for side in SIDES:
        middle = statistics.median(seconds[side])
        print(
            f"{side:<12}{middle:>10.2f}{base / middle:>8.2f} x{peak[side] / 2**30:>10.2f}"
            f"{peak[side] / peak['PyTorch']:>8.2f} x{losses[side][-1]:>12.5f}"
        )
    worst = max(abs(ours / theirs - 1) for theirs, ours in zip(*losses.values(), strict=True))
    print(f"largest relative difference of the losses: {worst:.1e}")
    if worst > TOLERANCE:
        sys.exit(f"the losses are not the same to {TOLERANCE:.0e}")


def run_side(options: argparse.Namespace) -> None:
    """Prints as JSON the seconds of each step after the first, the peak memory in bytes and the losses."""
    sizes = (options.model, options.images, options.captions)
    step = (
        torch_step(*sizes)
        if options.side == "PyTorch"
        else jax_step(*sizes, remat=options.remat, unroll=options.unroll, row_tokens=options.row_tokens)
    )
    first = step()  # compiles, and touches the memory for the first time
    seconds, losses = [], [first]
    for _ in range(options.steps):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "peak": resident_peak(), "losses": losses}), flush=True)


if __name__ == "__main__":
    main()
