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
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
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
    step = (torch_side if options.side == "PyTorch" else jax_side)(options)
    step()  # compiles, and touches the memory for the first time
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "loss": loss}), flush=True)


def random_batch(options: argparse.Namespace, config: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8 [B, S, S, 3], tokens [B*K, T] and the captions drawn for each image [B, B+K-1]."""
    rng = np.random.default_rng(0)
    size, text, count = config.vision.image_size, config.text, options.images * options.captions
    pixels = rng.integers(0, 256, (options.images, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, text.vocab_size - 1, (count, text.context_length), dtype=np.int32)
    tokens[:, -1] = text.vocab_size - 1
    own, others = np.arange(options.captions), rng.integers(0, options.captions, (options.images, options.images))
    drawn = [
        sorted(
            [*(image * options.captions + own)]
            + [other * options.captions + others[image, other] for other in range(options.images) if other != image]
        )
        for image in range(options.images)
    ]
    return pixels, tokens, np.array(drawn, np.int32)


def jax_side(options: argparse.Namespace) -> Callable[[], float]:
    """Our step."""
    import jax
    import jax.numpy as jnp
    from flair_jax.configs.default import get_config

    from flair_jax.models.flair import Flair
    from flair_jax.optim import make_optimizer
    from flair_jax.settings import TrainSettings
    from flair_jax.sharding import global_batch, make_mesh
    from flair_jax.train_state import Batch, init_state, make_train_step

    config = get_config()
    config.update(model=options.model, dtype="float32", remat=options.remat, unroll=options.unroll)
    config.update(batch_size=options.images)
    config.update(captions_per_image=options.captions)
    config.loss.group_size = 0
    settings = TrainSettings.from_config(config)
    model, mesh = Flair(settings.model_config()), make_mesh(settings.mesh)
    optimizer = make_optimizer(settings.optimizer, lambda step: 5e-4, ())
    pixels, tokens, drawn = random_batch(options, model.config)
    table = jnp.asarray(drawn)
    step = jax.jit(make_train_step(model, optimizer, settings, lambda key, group, row: table[row]), donate_argnums=0)
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, mesh, 0)
        batch = global_batch(Batch(pixels, tokens), mesh)

    def one() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = step(state, batch)
        return float(metrics.loss)

    return one


def torch_side(options: argparse.Namespace) -> Callable[[], float]:
    """The original's arithmetic: every caption gathered, then projected; PyTorch's fused attention; its AdamW."""
    import jax
    import torch
    from flair_jax.convert.param_map import torch_from_params
    from flair_jax.convert.torch_forward import TorchFlair
    from torch.nn import functional

    from flair_jax.models.config import PRESETS
    from flair_jax.models.flair import Flair
    from flair_jax.models.normalize import normalize
    from flair_jax.train_state import _INIT

    config = PRESETS[options.model]
    key = jax.random.fold_in(jax.random.key(0), _INIT)
    params = torch_from_params(jax.device_get(jax.jit(Flair(config).init)(key)), config)
    weights = {name: torch.from_numpy(tensor).requires_grad_() for name, tensor in params.items()}
    still = [
        w for name, w in weights.items() if w.ndim < 2 or any(s in name for s in ("bn", "ln", "bias", "logit_scale"))
    ]
    decaying = [w for w in weights.values() if not any(w is other for other in still)]
    optimizer = torch.optim.AdamW(
        [{"params": still, "weight_decay": 0.0}, {"params": decaying, "weight_decay": 0.5}],
        lr=5e-4,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    model = TorchFlair(weights, config)
    pixels, tokens, drawn = random_batch(options, config)
    images = torch.from_numpy(np.asarray(normalize(pixels)).transpose(0, 3, 1, 2).copy())
    texts, chosen = torch.from_numpy(tokens).long(), torch.from_numpy(drawn).long()
    owner = torch.arange(options.images)[:, None]
    own_chosen = torch.where(chosen // options.captions == owner, 1.0, -1.0)
    own_all = torch.where(torch.arange(len(tokens))[None] // options.captions == owner, 1.0, -1.0)
    del params
    jax.clear_caches()

    def one() -> float:
        optimizer.zero_grad()
        image, local = model.encode_image(images)
        text = model.encode_text(texts)
        scale, bias = weights["logit_scale"].exp(), weights["logit_bias"]
        pooled = functional.normalize(model.pool(local, text[chosen]), dim=-1)
        normalized = functional.normalize(text, dim=-1)
        logits = scale * (pooled * normalized[chosen]).sum(dim=-1) + bias
        tcs = -functional.logsigmoid(own_chosen * logits).sum() / chosen.shape[1]
        logits = scale * functional.normalize(image, dim=-1) @ normalized.T + bias
        mps = -functional.logsigmoid(own_all * logits).sum() / len(text)
        loss = (tcs + mps) / 2
        loss.backward()
        optimizer.step()
        return loss.item()

    return one


if __name__ == "__main__":
    main()
