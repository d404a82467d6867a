"""Self-attention over short sequences, by rows that may hold several texts, and who computes it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from flair_jax.errors import ConfigError
from flair_jax.models.config import FlairConfig
from flair_jax.models.layout import mesh_platform, shard_rows, tensor_parts
from flair_jax.models.short_attention import LANES, LONGEST

_CUDNN_HEADS = 128  # channels of a head; later GPUs take twice as many


class Choice(NamedTuple):
    """Who computes an attention: "xla", "cudnn" or "pallas"; and why not what is faster on the platform, or ""."""

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.reason}" if self.reason else self.name


def choose(
    setting: str, *, length: int, width: int, heads: int, dtype: DTypeLike, segments: bool, platform: str = ""
) -> Choice:
    """Who computes attention over rows.

    "auto" is the TPU kernel on TPUs and cuDNN's on GPUs, in bfloat16, if it takes such rows, and XLA otherwise.

    Args:
      setting: see `FlairConfig.attention`.
      length: tokens in a row.
      width: of all heads.
      heads: how many.
      dtype: of queries, keys and values.
      segments: whether rows hold several texts.
      platform: that is compiled for, "cpu", "gpu" or "tpu"; "": that of the mesh in use, or else of JAX's default.

    Raises:
      ConfigError: if the setting is not "auto", and cannot compute it.
    """
    platform = platform or mesh_platform() or jax.default_backend()
    low = jnp.dtype(dtype) == jnp.bfloat16
    refusals = {
        "xla": "",
        "pallas": _pallas_refuses(length, width, heads),
        "cudnn": _cudnn_refuses(length, width // heads, low, segments, platform),
    }
    if setting != "auto":
        if refusals[setting]:
            raise ConfigError(f"attention={setting!r}: {refusals[setting]}; attention='auto' chooses what works")
        return Choice(setting)
    faster = {"tpu": "pallas", "gpu": "cudnn"}.get(platform, "xla")
    reason = refusals[faster] or ("" if low or faster == "xla" else "it is for bfloat16")
    return Choice("xla", f"not {faster}: {reason}") if reason else Choice(faster)


def describe_choices(
    config: FlairConfig, row_tokens: int = 0, *, own: Collection[str] = (), patches: int | None = None
) -> str:
    """Who computes the towers' attention, as a line such as "attention by pallas (image tower, text tower)".

    Args:
      config: the model's.
      row_tokens: of rows of packed captions; 0: each has a row of the context's length.
      own: towers that are not CLIP's, "vision" or "text"; they are left out.
      patches: that the image tower sees of each image; all if not given.

    Raises:
      ConfigError: see `choose`.
    """
    choice = partial(choose, config.attention, dtype=config.dtype)
    towers: dict[str, list[str]] = {}
    if "vision" not in own:
        vision = config.vision
        length = 1 + (patches or vision.grid**2)
        chosen = choice(length=length, width=vision.width, heads=vision.heads, segments=False)
        towers.setdefault(str(chosen), []).append("image tower")
    if "text" not in own:
        text, length = config.text, row_tokens or config.text.context_length
        chosen = choice(length=length, width=text.width, heads=text.heads, segments=row_tokens > 0)
        towers.setdefault(str(chosen), []).append("text tower")
    return "attention by " + ("; ".join(f"{who} ({', '.join(names)})" for who, names in towers.items()) or "own towers")


def _pallas_refuses(length: int, width: int, heads: int) -> str:
    parts = tensor_parts(heads)
    head, local = width // heads, width // parts
    if length > LONGEST:
        return f"the kernel takes rows of up to {LONGEST} tokens, these have {length}"
    if local % min(LANES, local) or min(LANES, local) % head:
        where = f" on each of {parts} devices" if parts > 1 else ""
        return f"the kernel takes heads that fill {LANES} lanes evenly, these are {heads // parts} of {head}{where}"
    return ""


def _cudnn_refuses(length: int, head: int, low: bool, segments: bool, platform: str) -> str:
    """What JAX and cuDNN check themselves, but with a traceback."""
    if not low:
        return "cuDNN's attention takes bfloat16"
    attached = platform == "gpu" and jax.default_backend() == "gpu"
    if not attached or "cuda" not in jax.extend.backend.get_backend().platform_version:
        return "cuDNN needs an NVIDIA GPU"
    capability = str(jax.local_devices()[0].compute_capability)
    if float(capability) < 8:
        return f"cuDNN's attention needs a GPU of compute capability 8.0, this one's is {capability}"
    if head > _CUDNN_HEADS or head % 8:
        return f"cuDNN takes heads of up to {_CUDNN_HEADS} channels, in multiples of 8, these have {head}"
    if segments and length % 2:
        return f"cuDNN takes packed rows of an even number of tokens, these have {length}"
    return ""


def split_heads(x: Float[Array, "*batch D"], heads: int) -> Float[Array, "*batch H C"]:
    """Cuts the last axis into `heads` equal heads."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attend(
    query: Float[Array, "B Q W"],
    key: Float[Array, "B L W"],
    value: Float[Array, "B L W"],
    *,
    heads: int,
    causal: bool,
    segments: Int[Array, "B L"] | None = None,
    implementation: str = "xla",
) -> Float[Array, "B Q W"]:
    """Softmax attention of every position to those of its row that it may see.

    Args:
      query: its heads, of width W / `heads`, one after the other; Q may differ from L where nothing is masked.
      key: likewise.
      value: likewise.
      heads: how many.
      causal: whether a position attends only to itself and those before it.
      segments: a position attends only to those with its own number; None: to all.
      implementation: "xla" or "cudnn".
    """
    query, key, value = (shard_rows(split_heads(each, heads), tensor=2) for each in (query, key, value))
    mask = None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None]
    if implementation == "cudnn":
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal, implementation="cudnn")
    else:
        if causal:
            before = jnp.tril(jnp.ones((1, 1, query.shape[1], query.shape[1]), bool))
            mask = before if mask is None else mask & before
        mixed = _mix(query, key, value, mask)
    mixed = shard_rows(mixed, tensor=2)
    return mixed.reshape(*mixed.shape[:2], mixed.shape[2] * mixed.shape[3])


def _mix(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    """Attention [B, L, H, C] by XLA: on CPUs in three quarters of the time of JAX's own."""
    query, key, value = (each.swapaxes(1, 2) for each in (query, key, value))
    logits = jnp.einsum("bhqc,bhkc->bhqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask, logits, -1e30)
    return jnp.einsum("bhqk,bhkc->bhqc", jax.nn.softmax(logits).astype(value.dtype), value).swapaxes(1, 2)
