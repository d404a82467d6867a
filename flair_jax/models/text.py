"""Text tower: token ids as one feature, read at the end-of-text token."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from flair_jax.models.layout import gather, shard_rows
from flair_jax.models.tokens import PackedTexts, find_end
from flair_jax.models.transformer import Block, layer_norm, run_stacked


class TextTower(nn.Module):
    """Transformer whose feature is read at the end of the text (Radford et al. 2021).

    As long as it is causal, padding after the end-of-text token needs no mask, since no token before it attends to it.
    `flair_jax.models.text_tower` makes it from a `FlairConfig`. Any module whose `__call__` gives the same can
    replace it.

    Attributes:
      context_length: the most tokens that it reads.
      vocab_size: V; token ids are below it.
      width: W of the layers.
      layers: how many.
      heads: attention heads of each.
      embed_dim: D of the output.
      mlp_ratio: hidden units of an MLP, as a multiple of its width.
      quick_gelu: the activation, see `FlairConfig`.
      layer_norm_eps: epsilon that each LayerNorm adds to the variance.
      end_of_text_id: see `find_end`.
      causal: whether a token attends only to itself and those before it; otherwise to all, padding included.
      dtype: compute dtype of the layers; parameters are float32.
      remat: see `FlairConfig`.
      unroll: see `FlairConfig`.
      attention: see `FlairConfig`.
      residual_dtype: see `FlairConfig`.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    embed_dim: int
    mlp_ratio: float = 4.0
    quick_gelu: bool = False
    layer_norm_eps: float = 1e-5
    end_of_text_id: int | None = None
    causal: bool = True
    dtype: DTypeLike = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    residual_dtype: DTypeLike = "float32"

    def setup(self) -> None:
        normal = jax.nn.initializers.normal
        self.token_embedding = self.param("token_embedding", normal(0.02), (self.vocab_size, self.width))
        self.position_embedding = self.param("position_embedding", normal(0.01), (self.context_length, self.width))
        in_std = self.width**-0.5
        self.blocks = Block(
            heads=self.heads,
            hidden=int(self.width * self.mlp_ratio),
            causal=self.causal,
            activation="quick_gelu" if self.quick_gelu else "gelu",
            # CLIP's initialisation (Radford et al. 2021): layers that write to the residual stream shrink with depth.
            init_std=(in_std, in_std * (2 * self.layers) ** -0.5, (2 * self.width) ** -0.5),
            dtype=jnp.dtype(self.dtype),
            layer_norm_eps=self.layer_norm_eps,
            implementation=self.attention,
        )
        self.ln_final = layer_norm(self.layer_norm_eps)
        self.projection = nn.Dense(self.embed_dim, use_bias=False, kernel_init=normal(in_std))

    def end_of_text(self, tokens: Int[Array, "N T"]) -> Float[Array, "N W"]:
        """The normalised feature at the end-of-text token, before projection."""
        x = gather(self.token_embedding)[tokens] + self.position_embedding[None, : tokens.shape[1]]
        x = self._layers(x)
        last = find_end(tokens, self.end_of_text_id)[:, None, None]
        return self.ln_final(shard_rows(jnp.take_along_axis(x, last, axis=1)[:, 0]))

    def packed(self, texts: PackedTexts) -> Float[Array, "N D"]:
        """`__call__` of texts without their padding: N = G*C, group by group. The tower must be causal."""
        groups, rows, length = texts.tokens.shape
        tokens, positions, segments = (jnp.asarray(each).reshape(groups * rows, length) for each in texts[:3])
        x = gather(self.token_embedding)[tokens] + gather(self.position_embedding)[positions]
        x = self._layers(x, segments)
        x = shard_rows(x.reshape(groups, rows * length, -1))
        x = shard_rows(jnp.take_along_axis(x, texts.ends[:, :, None], axis=1))
        return self.projection(self.ln_final(shard_rows(x.reshape(-1, x.shape[-1]))))

    def __call__(self, tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
        """Projected text features [N, D], not normalised, of token ids; T may be less than `context_length`."""
        return self.projection(self.end_of_text(tokens))

    def _layers(self, x: Float[Array, "R T W"], segments: Int[Array, "R T"] | None = None) -> Float[Array, "R T W"]:
        return run_stacked(
            *(self.blocks, x, segments),
            layers=self.layers,
            remat=self.remat,
            unroll=self.unroll,
            residual_dtype=self.residual_dtype,
        )
