"""Text-conditioned scoring: pairs per second here and by the original's arithmetic in PyTorch, in one run.

    python benchmarks/scoring.py

The baseline is what the PyTorch release computes: image by image, all texts projected to queries anew, one call of
PyTorch's attention, normalised, dotted with the texts. It is timed twice: with attention weights returned, as
`nn.MultiheadAttention` does unless told otherwise, and by PyTorch's fused kernel, which returns none. All sides start
from features in host memory and end with scores there, in float32, on the same random ViT-B/16 features; rounds
alternate, so that a busy machine slows all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import torch
from sides import initial_params, random_features, torch_scores

from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.scoring.scorer import Retriever


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="images scored (default %(default)s)")
    parser.add_argument("--texts", type=int, default=5000, help="texts scored (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each side (default %(default)s)")
    options = parser.parse_args()

    config = PRESETS["ViT-B-16-FLAIR"]
    local, text = random_features(options.images, options.texts, config)
    original, retriever = torch_scores(config, local, text), Retriever(Flair(config), initial_params(config))
    sides = {
        "PyTorch, weights returned": lambda: original(need_weights=True),
        "PyTorch, fused kernel": lambda: original(need_weights=False),
        "flair_jax, blocks": lambda: retriever.score_all(local, retriever.prepare_texts(text)),
    }
    scores = {name: side() for name, side in sides.items()}  # also compiles
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds[name].append(timed(side))

    theirs, _, ours = scores.values()
    rates = {name: options.images * options.texts / statistics.median(times) for name, times in seconds.items()}
    print(f"{options.images} images x {options.texts} texts, median of {options.rounds} rounds")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}, {os.cpu_count()} cores")
    for name, rate in rates.items():
        ratios = "".join(f"{rate / other:>8.2f} x" for other in list(rates.values())[:2])
        print(f"{name:<26}{rate:>12,.0f} pairs/s{ratios}")
    print(f"largest difference of a cosine: {np.abs(ours - theirs).max():.1e}")


def timed(side: Callable[[], np.ndarray]) -> float:
    """Wall seconds of one call."""
    time.sleep(0.5)  # PyTorch's threads spin for a while after its last call, and would slow the other side
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
