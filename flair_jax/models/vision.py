"""Vision tower: a picture as one global and many local tokens."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flair_jax.models.config import FlairConfig
from flair_jax.models.resize import resize_position_embedding
from flair_jax.models.transformer import Block, LayerNorm, run_stacked


class VisionTower(nn.Module):
    """ViT whose class token is the global image token and whose patch tokens are the local ones."""

    config: FlairConfig

    def setup(self) -> None:
        config, dtype = self.config.vision, jnp.dtype(self.config.dtype)
        normal = jax.nn.initializers.normal(config.width**-0.5)
        patch_shape = (config.patch_size, config.patch_size, 3, config.width)
        # PyTorch's default for the convolution; fan_in counts all axes but the last.
        self.patch_embedding = self.param(
            "patch_embedding", jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), patch_shape
        )
        self.class_token = self.param("class_token", normal, (config.width,))
        self.position_embedding = self.param("position_embedding", normal, (1 + config.grid**2, config.width))
        self.ln_pre = LayerNorm()
        self.blocks = Block(
            heads=config.heads,
            hidden=int(config.width * config.mlp_ratio),
            causal=False,
            quick_gelu=self.config.quick_gelu,
            init_std=None,
            dtype=dtype,
        )
        self.ln_post = LayerNorm()
        self.projection = nn.Dense(self.config.embed_dim, use_bias=False, kernel_init=normal)

    def tokens(self, images: Float[Array, "B S1 S2 3"]) -> Float[Array, "B P W"]:
        """All tokens after the last LayerNorm, before projection: the global token first, then the local ones."""
        dtype = jnp.dtype(self.config.dtype)
        patch = self.config.vision.patch_size
        batch, height, width, _ = images.shape
        grid = (height // patch, width // patch)
        # A convolution whose stride is its kernel is one matrix product over flattened patches.
        patches = images.reshape(batch, grid[0], patch, grid[1], patch, 3).astype(dtype)
        x = jnp.einsum("bgphqc,pqcw->bghw", patches, self.patch_embedding.astype(dtype))
        # From here the residual stream is float32, as under PyTorch's autocast; the blocks round what they multiply.
        class_token = jnp.broadcast_to(self.class_token, (batch, 1, x.shape[-1]))
        x = jnp.concatenate([class_token, x.reshape(batch, grid[0] * grid[1], -1)], axis=1, dtype=jnp.float32)
        x = x + resize_position_embedding(self.position_embedding, grid)[None]
        x = run_stacked(
            self.blocks,
            self.ln_pre(x),
            layers=self.config.vision.layers,
            remat=self.config.remat,
            unroll=self.config.unroll,
        )
        return self.ln_post(x)

    def __call__(self, images: Float[Array, "B S1 S2 3"]) -> tuple[Float[Array, "B D"], Float[Array, "B L D"]]:
        """Global [B, D] and local [B, L, D] image tokens, both projected, not normalised."""
        projected = self.projection(self.tokens(images))
        return projected[:, 0], projected[:, 1:]
