"""The two sides that the benchmarks compare: ours, and the original's arithmetic in PyTorch. Each loads its own.

A training step is forward, backward and AdamW on the same random batch and parameters. Captions have as many tokens as
drawn ones were measured to have. PyTorch's side pads them, gathers every caption and then projects it, as the original
does, and uses PyTorch's fused attention and its AdamW.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from made_captions import TRAINING, made_captions

from flair_jax.models.config import FlairConfig
from flair_jax.models.presets import PRESETS

TOKENS_PER_CAPTION = 42.0  # rows enough for the made captions, of which nothing is cut


def random_batch(images: int, captions: int, config: FlairConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8 [B, S, S, 3], tokens [B*K, T] and the captions drawn for each image [B, B+K-1]."""
    rng = np.random.default_rng(0)
    size = config.vision.image_size
    pixels = rng.integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    tokens = made_captions(images * captions, TRAINING, config.text)
    own, others = np.arange(captions), rng.integers(0, captions, (images, images))
    drawn = [
        sorted(
            [*(image * captions + own)]
            + [other * captions + others[image, other] for other in range(images) if other != image]
        )
        for image in range(images)
    ]
    return pixels, tokens, np.array(drawn, np.int32)


def random_features(images: int, texts: int, config: FlairConfig) -> tuple[np.ndarray, np.ndarray]:
    """Local image tokens [I, L, D] and text features [N, D], float32."""
    rng = np.random.default_rng(0)
    local = rng.standard_normal((images, config.vision.grid**2, config.embed_dim), np.float32)
    return local, rng.standard_normal((texts, config.embed_dim), np.float32)


def jax_step(
    name: str,
    images: int,
    captions: int,
    *,
    dtype: str = "float32",
    remat: str = "none",
    unroll: int = 1,
    row_tokens: int = 0,
) -> Callable[[], float]:
    """Our training step on one device as a function that returns the loss; `row_tokens` packs captions."""
    import jax
    import jax.numpy as jnp

    from flair_jax.configs.default import get_config
    from flair_jax.models.flair import Flair
    from flair_jax.parallel.sharding import global_batch, make_mesh
    from flair_jax.settings import TrainSettings
    from flair_jax.train.losses import make_loss
    from flair_jax.train.optim import make_optimizer
    from flair_jax.train.packing import find_packing
    from flair_jax.train.step import Batch, init_state, make_train_step

    config = get_config()
    config.update(model=name, dtype=dtype, remat=remat, unroll=unroll, batch_size=images, captions_per_image=captions)
    config.loss.group_size = 0
    config.packing.update(row_tokens=row_tokens, tokens_per_caption=TOKENS_PER_CAPTION)
    settings = TrainSettings.from_config(config)
    model, mesh = Flair(settings.model_config()), make_mesh(settings.mesh, jax.devices()[:1])
    optimizer = make_optimizer(settings.optimizer, lambda step: 5e-4, ())
    pixels, tokens, drawn = random_batch(images, captions, model.config)
    table = jnp.asarray(drawn)
    loss = make_loss(settings.loss, settings.group_size, sampler=lambda key, group, row: table[row])
    step = jax.jit(make_train_step(model, optimizer, settings, loss=loss), donate_argnums=0)
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, mesh, 0)
        packing = find_packing(settings, model, mesh)
        texts, cut = packing.pack(tokens) if packing else (tokens, 0)
        if cut:
            sys.exit(f"{cut} captions were cut")
        batch = global_batch(Batch(pixels, texts), mesh)

    def one() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = step(state, batch)
        return float(metrics.loss)

    return one


def torch_step(
    name: str, images: int, captions: int, *, device: str = "cpu", autocast: bool = False
) -> Callable[[], float]:
    """PyTorch's training step as a function that returns the loss; `autocast` computes in bfloat16."""
    import torch
    from torch.nn import functional

    from flair_jax.convert.torch_forward import TorchFlair

    config = PRESETS[name]
    weights = {key: tensor.requires_grad_() for key, tensor in torch_weights(config, device).items()}
    still = [
        w for key, w in weights.items() if w.ndim < 2 or any(s in key for s in ("bn", "ln", "bias", "logit_scale"))
    ]
    decaying = [w for w in weights.values() if not any(w is other for other in still)]
    optimizer = torch.optim.AdamW(
        [{"params": still, "weight_decay": 0.0}, {"params": decaying, "weight_decay": 0.5}],
        lr=5e-4,
        betas=(0.9, 0.98),
        eps=1e-8,
    )
    model = TorchFlair(weights, config)
    pixels, tokens, drawn = random_batch(images, captions, config)
    pictures = torch.from_numpy(_normalize(pixels).transpose(0, 3, 1, 2).copy()).to(device)
    texts, chosen = (torch.from_numpy(array).long().to(device) for array in (tokens, drawn))
    owner = torch.arange(images, device=device)[:, None]
    own_chosen = torch.where(chosen // captions == owner, 1.0, -1.0)
    own_all = torch.where(torch.arange(len(tokens), device=device)[None] // captions == owner, 1.0, -1.0)

    def loss_of_batch() -> Any:
        image, local = model.encode_image(pictures)
        text = model.encode_text(texts)
        scale, bias = weights["logit_scale"].exp(), weights["logit_bias"]
        pooled = functional.normalize(model.pool(local, text[chosen]), dim=-1)
        normalized = functional.normalize(text, dim=-1)
        logits = scale * (pooled * normalized[chosen]).sum(dim=-1) + bias
        tcs = -functional.logsigmoid(own_chosen * logits).sum() / chosen.shape[1]
        logits = scale * functional.normalize(image, dim=-1) @ normalized.T + bias
        mps = -functional.logsigmoid(own_all * logits).sum() / len(text)
        return (tcs + mps) / 2

    def one() -> float:
        optimizer.zero_grad()
        with bfloat16(device) if autocast else contextlib.nullcontext():
            loss = loss_of_batch()
        loss.backward()
        optimizer.step()
        return loss.item()

    return one


def torch_scores(
    config: FlairConfig, local: np.ndarray, text: np.ndarray, *, device: str = "cpu", autocast: bool = False
) -> Callable[..., np.ndarray]:
    """A function (need_weights) that gives the cosines [I, N] as the PyTorch release computes them: image by image."""
    import torch
    from torch.nn import functional

    from flair_jax.convert.torch_forward import TorchFlair

    original = TorchFlair(torch_weights(config, device), config)

    @torch.no_grad()
    def scores(*, need_weights: bool) -> np.ndarray:
        texts = torch.from_numpy(text).to(device)
        rows = []
        with bfloat16(device) if autocast else contextlib.nullcontext():
            for tokens in torch.from_numpy(local).to(device):
                pooled = functional.normalize(original.pool(tokens[None], texts, need_weights=need_weights), dim=-1)
                rows.append(torch.einsum("bnd,nd->bn", pooled, functional.normalize(texts, dim=-1)))
        return torch.cat(rows).float().cpu().numpy()

    return scores


def torch_weights(config: FlairConfig, device: str) -> dict[str, Any]:
    """The parameters that our side starts from, as a PyTorch state dict."""
    import jax
    import torch

    from flair_jax.weights.param_map import torch_from_params

    params = torch_from_params(initial_params(config), config)
    jax.clear_caches()
    return {name: torch.from_numpy(tensor).to(device) for name, tensor in params.items()}


def initial_params(config: FlairConfig) -> Any:
    """The parameters that a run with seed 0 starts from, as NumPy arrays."""
    import jax

    from flair_jax.models.flair import Flair
    from flair_jax.train.step import _INIT

    return jax.device_get(jax.jit(Flair(config).init)(jax.random.fold_in(jax.random.key(0), _INIT)))


def bfloat16(device: str) -> Any:
    """PyTorch's automatic mixed precision."""
    import torch

    return torch.autocast(device, dtype=torch.bfloat16)


def resident_peak() -> int:
    """The most memory that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _normalize(pixels: np.ndarray) -> np.ndarray:
    from flair_jax.models.normalize import normalize

    return np.asarray(normalize(pixels))
