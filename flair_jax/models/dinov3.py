"""DINOv3's vision transformer (Siméoni et al. 2025, arXiv 2508.10104), for the sizes without gated MLPs.

What differs from CLIP's: positions turn queries and keys (rotary embeddings in two dimensions, Heo et al. 2024), so
that any image size is read without interpolation; there are register tokens (Darcet et al. 2024) beside the class
token; each layer's branches are scaled (Touvron et al. 2021). Equal to `DINOv3ViTModel` of the library transformers.
"""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from flair_jax.errors import ConfigError
from flair_jax.models.attention import attend, choose, split_heads
from flair_jax.models.config import FlairConfig
from flair_jax.models.siglip import check_width
from flair_jax.models.transformer import ATTENTION, Mlp, layer_norm, run_stacked, torch_linear_init
from flair_jax.models.vision import PatchEmbedding

# Of every released model, as are `rope_theta` of 100 and biases of all layers but the keys.
REGISTERS = 4
ROPE_BASE = 100.0


def rotations(grid: tuple[int, int], channels: int) -> tuple[Float[Array, "L C"], Float[Array, "L C"]]:
    """Cosine and sine of the angles by which each patch's queries and keys turn.

    A quarter of the channels of a head has one angle for the row of the patch and one for its column each; centres of
    patches lie within -1 and 1.

    Args:
      grid: rows and columns of patches.
      channels: C of a head, a multiple of 4.
    """
    periods = ROPE_BASE ** (jnp.arange(channels // 4, dtype=jnp.float32) * 4 / channels)
    centres = [2 * (jnp.arange(count, dtype=jnp.float32) + 0.5) / count - 1 for count in grid]
    places = jnp.stack(jnp.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = (2 * math.pi * places[:, :, None] / periods[None, None]).reshape(len(places), -1)
    angles = jnp.tile(angles, 2)
    return jnp.cos(angles), jnp.sin(angles)


def _turn(x: Float[Array, "B L W"], cos: Float[Array, "P C"], sin: Float[Array, "P C"], heads: int) -> Array:
    """Queries or keys of all tokens with those of the patches, the last P, turned; in the dtype of x."""
    first = x.shape[1] - len(cos)
    patches = split_heads(x[:, first:].astype(jnp.float32), heads)
    low, high = jnp.split(patches, 2, axis=-1)
    turned = patches * cos[None, :, None] + jnp.concatenate([-high, low], axis=-1) * sin[None, :, None]
    return jnp.concatenate([x[:, :first], turned.reshape(x.shape[0], len(cos), -1).astype(x.dtype)], axis=1)


class TurningAttention(nn.Module):
    """Multi-head self-attention with turned queries and keys, and no bias on keys.

    Attributes:
      config: the model's description.
    """

    config: FlairConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L W"], cos: Float[Array, "P C"], sin: Float[Array, "P C"]
    ) -> Float[Array, "B L W"]:
        config, vision = self.config, self.config.vision
        dense = partial(nn.Dense, vision.width, dtype=jnp.dtype(config.dtype), kernel_init=torch_linear_init)
        query, key, value = dense(name="query")(x), dense(name="key", use_bias=False)(x), dense(name="value")(x)
        query, key = (_turn(each, cos, sin, vision.heads) for each in (query, key))
        query, key, value = (checkpoint_name(each, ATTENTION) for each in (query, key, value))
        chosen = choose(
            config.attention,
            length=x.shape[1],
            width=vision.width,
            heads=vision.heads,
            dtype=config.dtype,
            segments=False,
        ).name
        if chosen == "pallas" and config.attention != "auto":
            raise ConfigError("attention='pallas' takes no turned queries, which vision.tower='dinov3' has; use 'auto'")
        mixed = attend(
            *(query, key, value),
            heads=vision.heads,
            causal=False,
            implementation="cudnn" if chosen == "cudnn" else "xla",
        )
        return dense(name="out")(checkpoint_name(mixed, ATTENTION))


class LayerScale(nn.Module):
    """A learnt factor for each channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        scale = self.param("scale", jax.nn.initializers.ones, (x.shape[-1],))
        return x * scale.astype(x.dtype)[None, None]


class DinoV3Block(nn.Module):
    """One pre-norm layer: x + a * attention(ln_1(x)), then x + b * mlp(ln_2(x)), a and b learnt for each channel.

    Attributes:
      config: the model's description.
    """

    config: FlairConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L W"], cos: Float[Array, "P C"], sin: Float[Array, "P C"]
    ) -> Float[Array, "B L W"]:
        vision, dtype = self.config.vision, jnp.dtype(self.config.dtype)
        norm = partial(layer_norm, vision.layer_norm_eps, dtype)
        hidden = int(vision.width * vision.mlp_ratio)
        mlp = Mlp(hidden, "gelu", torch_linear_init, torch_linear_init, dtype, name="mlp")
        attention = TurningAttention(self.config, name="attention")
        x = x + LayerScale(name="attention_factor")(attention(norm("ln_1")(x), cos, sin))
        return x + LayerScale(name="mlp_factor")(mlp(norm("ln_2")(x)))


class DinoV3Tower(nn.Module):
    """DINOv3: the class token is the global image token, patch tokens are the local ones, registers are left out.

    Attributes:
      config: the model's description, whose `embed_dim` is `vision.width`.
    """

    config: FlairConfig

    def setup(self) -> None:
        vision = self.config.vision
        check_width(self.config)
        if vision.head_width % 4:
            raise ConfigError(f"vision.head_width={vision.head_width} is not a multiple of 4, which rotations need")
        normal = jax.nn.initializers.normal(0.02)
        self.patch_embedding = PatchEmbedding(vision.patch_size, vision.width, self.config.dtype)
        self.class_token = self.param("class_token", normal, (1, 1, vision.width))
        self.register_tokens = self.param("register_tokens", normal, (1, REGISTERS, vision.width))
        self.blocks = DinoV3Block(self.config)
        self.ln_post = layer_norm(vision.layer_norm_eps)

    def tokens(self, images: Float[Array, "B S1 S2 3"]) -> Float[Array, "B P W"]:
        """All tokens after the last LayerNorm: the class token, the registers, the patches row by row."""
        config = self.config
        x = self.patch_embedding(images)
        batch, rows, columns, width = x.shape
        first = jnp.concatenate([self.class_token, self.register_tokens], axis=1)
        first = jnp.broadcast_to(first, (batch, 1 + REGISTERS, width))
        x = run_stacked(
            *(self.blocks, jnp.concatenate([first, x.reshape(batch, -1, width)], axis=1)),
            *rotations((rows, columns), config.vision.head_width),
            layers=config.vision.layers,
            remat=config.remat,
            unroll=config.unroll,
            residual_dtype=config.residual_dtype,
        )
        return self.ln_post(x)

    def __call__(self, images: Float[Array, "B S1 S2 3"]) -> tuple[Float[Array, "B D"], Float[Array, "B L D"]]:
        """Global [B, D] and local [B, L, D] image tokens, not normalised."""
        tokens = self.tokens(images)
        return tokens[:, 0], tokens[:, 1 + REGISTERS :]
