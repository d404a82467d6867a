"""The parts of `gpu.py`, each of which runs in a process of its own and gives rows of its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gpu_attention import Attention, Row, Turns, attention_rows, blocking, in_turns
from sides import TOKENS_PER_CAPTION, initial_params, jax_step, random_features, resident_peak, torch_scores, torch_step

from flair_jax.configs.default import get_config
from flair_jax.models.flair import Flair
from flair_jax.models.presets import PRESETS
from flair_jax.settings import PackingSettings, TrainSettings
from flair_jax.train.flops import step_flops
from flair_jax.train.losses import make_loss


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured."""

    model: str
    images: int
    captions: int
    scored_images: int
    scored_texts: int
    matmul: int
    attention: tuple[Attention, ...]
    turns: Turns
    tiny: bool


FULL = Sizes(
    model="ViT-B-16-FLAIR",
    images=128,
    captions=8,
    scored_images=256,
    scored_texts=5000,
    matmul=8192,
    attention=(
        Attention("attention of the image tower", 128, 197, 12, 64, causal=False),
        Attention("causal attention of the text tower", 1024, 77, 8, 64, causal=True),
        Attention("packed captions of the text tower", 328, 128, 8, 64, causal=True, texts=(40, 36, 52)),
    ),
    turns=Turns(5, 10),
    tiny=False,
)
TINY = Sizes(
    model="tiny",
    images=4,
    captions=2,
    scored_images=4,
    scored_texts=64,
    matmul=512,
    attention=(
        Attention("attention of the image tower", 2, 197, 2, 64, causal=False),
        Attention("causal attention of the text tower", 2, 77, 2, 64, causal=True),
        Attention("packed captions of the text tower", 2, 128, 2, 64, causal=True, texts=(40, 36, 52)),
    ),
    turns=Turns(3, 2),
    tiny=True,
)


def device(_sizes: Sizes, _remat: str) -> list[Row]:
    """Where JAX runs."""
    import jax

    first = jax.devices()[0]
    return [{"platform": first.platform, "kind": first.device_kind, "jax": jax.__version__}]


def matmul(sizes: Sizes, _: str) -> list[Row]:
    """The peak: FLOP/s of a large square product."""
    import jax
    import jax.numpy as jnp

    side = sizes.matmul
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), jnp.bfloat16)
    seconds = in_turns({"matmul": blocking(jax.jit(jnp.matmul), left, right)}, sizes.turns)["matmul"]
    return [{"side": side, "seconds": seconds, "flops_per_second": 2 * side**3 / seconds}]


def train_jax(sizes: Sizes, remat: str) -> list[Row]:
    """Our training step with padded captions, as PyTorch's."""
    return [_train_jax("flair_jax, padded", sizes, remat, 0)]


def train_jax_packed(sizes: Sizes, remat: str) -> list[Row]:
    """Our training step with the same captions packed."""
    return [_train_jax("flair_jax, packed", sizes, remat, _ROW_TOKENS)]


def _train_jax(name: str, sizes: Sizes, remat: str, row_tokens: int) -> Row:
    words: dict[str, Any] = {"dtype": "bfloat16", "remat": remat, "row_tokens": row_tokens}
    step = jax_step(sizes.model, sizes.images, sizes.captions, **words)
    return _train_row(name, sizes, in_turns({"": step}, sizes.turns)[""], jax_peak(), row_tokens)


def train_torch(sizes: Sizes, _: str) -> list[Row]:
    """PyTorch's training step."""
    where, note = torch_device(sizes)
    if note:
        return [{"group": _train_group(sizes), "name": _TORCH, "note": note}]
    step = torch_step(sizes.model, sizes.images, sizes.captions, device=where, autocast=True)
    seconds = in_turns({"": step}, sizes.turns)[""]
    return [_train_row(_TORCH, sizes, seconds, torch_peak(where))]


def _train_group(sizes: Sizes) -> str:
    return f"training step, {sizes.images} images x {sizes.captions} captions"


def _train_row(name: str, sizes: Sizes, seconds: float, peak: int, row_tokens: int = 0) -> Row:
    packing = PackingSettings(row_tokens=row_tokens, tokens_per_caption=TOKENS_PER_CAPTION)
    loss = make_loss(TrainSettings.from_config(get_config()).loss, sizes.images)
    return {
        "group": _train_group(sizes),
        "name": name,
        "seconds": seconds,
        "count": sizes.images,
        "unit": "images",
        "flops": step_flops(Flair(PRESETS[sizes.model]), sizes.images, sizes.captions, loss, packing=packing),
        "peak_bytes": peak,
    }


def score_jax(sizes: Sizes, _: str) -> list[Row]:
    """Our text-conditioned scores, from features in host memory to scores there."""
    import jax

    from flair_jax.models.flair import Flair
    from flair_jax.scoring.scorer import Retriever

    config = PRESETS[sizes.model]
    model = Flair(dataclasses.replace(config, dtype="bfloat16"))
    retriever = Retriever(model, initial_params(config), jax.devices()[:1])
    local, text = random_features(sizes.scored_images, sizes.scored_texts, config)
    seconds = in_turns({"": lambda: retriever.score_all(local, retriever.prepare_texts(text))}, sizes.turns)[""]
    return [_score_row("flair_jax", sizes, seconds, jax_peak())]


def score_torch(sizes: Sizes, _: str) -> list[Row]:
    """PyTorch's scores, image by image, by its fused attention."""
    where, note = torch_device(sizes)
    if note:
        return [{"group": _score_group(sizes), "name": _TORCH, "note": note}]
    config = PRESETS[sizes.model]
    features = random_features(sizes.scored_images, sizes.scored_texts, config)
    scores = torch_scores(config, *features, device=where, autocast=True)
    seconds = in_turns({"": lambda: scores(need_weights=False)}, sizes.turns)[""]
    return [_score_row(_TORCH, sizes, seconds, torch_peak(where))]


def _score_group(sizes: Sizes) -> str:
    return f"text-conditioned scores, {sizes.scored_images} images x {sizes.scored_texts:,} texts"


def _score_row(name: str, sizes: Sizes, seconds: float, peak: int) -> Row:
    config = PRESETS[sizes.model]
    pairs = sizes.scored_images * sizes.scored_texts
    # Of each pair: logits and mixing, 2 FLOPs a multiplication, and the out-projection.
    flops = pairs * (4 * config.vision.grid**2 * config.embed_dim + 2 * config.embed_dim**2)
    return {
        "group": _score_group(sizes),
        "name": name,
        "seconds": seconds,
        "count": pairs,
        "unit": "pairs",
        "flops": flops,
        "peak_bytes": peak,
    }


def torch_device(sizes: Sizes) -> tuple[str, str]:
    """Where PyTorch runs, and why it does not."""
    try:
        import torch
    except ImportError:
        return "", "PyTorch is not installed"
    if torch.cuda.is_available():
        return "cuda", ""
    return ("cpu", "") if sizes.tiny else ("", "this PyTorch has no CUDA")


def jax_peak() -> int:
    """The most memory that JAX's first device held, in bytes; on a CPU, the process."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use") or resident_peak()


def torch_peak(where: str) -> int:
    """The most memory that PyTorch held on the GPU, in bytes; on a CPU, the process."""
    import torch

    return torch.cuda.max_memory_allocated() if where == "cuda" else resident_peak()


def attention(sizes: Sizes, _: str) -> list[Row]:
    """Every exact attention at hand."""
    return [row for case in sizes.attention for row in attention_rows(case, sizes.turns)]


_ROW_TOKENS = 128  # as in the published recipes
_TORCH = "PyTorch, autocast, fused attention"

PARTS: dict[str, Callable[[Sizes, str], list[Row]]] = {
    "device": device,
    "matmul": matmul,
    "training step, flair_jax, padded": train_jax,
    "training step, flair_jax, packed": train_jax_packed,
    "training step, PyTorch": train_torch,
    "scores, flair_jax": score_jax,
    "scores, PyTorch": score_torch,
    "attention": attention,
}
