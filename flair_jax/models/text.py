"""Text tower: token ids as one feature, read at the end-of-text token."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flair_jax.models.config import FlairConfig
from flair_jax.models.layout import gather, split_rows
from flair_jax.models.transformer import Block, LayerNorm, run_stacked


class TextTower(nn.Module):
    """Causal transformer; padding after the end-of-text token needs no mask, since nothing before it sees it."""

    config: FlairConfig

    def setup(self) -> None:
        config = self.config.text
        normal = jax.nn.initializers.normal
        self.token_embedding = self.param("token_embedding", normal(0.02), (config.vocab_size, config.width))
        self.position_embedding = self.param("position_embedding", normal(0.01), (config.context_length, config.width))
        in_std = config.width**-0.5
        self.blocks = Block(
            heads=config.heads,
            hidden=int(config.width * config.mlp_ratio),
            causal=True,
            quick_gelu=self.config.quick_gelu,
            # CLIP's initialisation (Radford et al. 2021): layers that write to the residual stream shrink with depth.
            init_std=(in_std, in_std * (2 * config.layers) ** -0.5, (2 * config.width) ** -0.5),
            dtype=jnp.dtype(self.config.dtype),
        )
        self.ln_final = LayerNorm()
        self.projection = nn.Dense(self.config.embed_dim, use_bias=False, kernel_init=normal(in_std))

    def end_of_text(self, tokens: Int[Array, "N T"]) -> Float[Array, "N W"]:
        """The normalised feature at the end-of-text token, which has the highest id, before projection."""
        x = gather(self.token_embedding)[tokens] + self.position_embedding[None, : tokens.shape[1]]
        x = run_stacked(
            self.blocks, x, layers=self.config.text.layers, remat=self.config.remat, unroll=self.config.unroll
        )
        last = tokens.argmax(axis=-1)[:, None, None]
        return self.ln_final(split_rows(jnp.take_along_axis(x, last, axis=1)[:, 0]))

    def __call__(self, tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
        """Projected text features [N, D], not normalised."""
        return self.projection(self.end_of_text(tokens))
