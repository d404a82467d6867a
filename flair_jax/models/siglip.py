"""SigLIP's towers (Zhai et al. 2023), which are those of SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786), too.

What differs from CLIP's: no class token, the global image token is pooled from the local ones by attention; the text
tower is not causal, padding is part of the text, and its feature is read at the last position; the GELU has the tanh
form. Equal to `SiglipModel` of the library transformers, except for images of another size than the tower's: its
interpolation of positions is not antialiased, ours is, as for every tower here.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flair_jax.errors import ConfigError, FlairError
from flair_jax.models.attention import attend
from flair_jax.models.config import FlairConfig, TextConfig, VisionConfig
from flair_jax.models.layout import gather, shard_rows
from flair_jax.models.resize import resize_grid
from flair_jax.models.transformer import Block, Mlp, layer_norm, run_stacked, torch_linear_init
from flair_jax.models.vision import PatchEmbedding

_ACTIVATION = "gelu_tanh"


def _blocks(config: FlairConfig, tower: VisionConfig | TextConfig) -> Block:
    return Block(
        heads=tower.heads,
        hidden=int(tower.width * tower.mlp_ratio),
        causal=False,
        activation=_ACTIVATION,
        init_std=None,
        dtype=jnp.dtype(config.dtype),
        layer_norm_eps=tower.layer_norm_eps,
        implementation=config.attention,
    )


class PoolingHead(nn.Module):
    """A learnt query over the local tokens, and an MLP with a residual connection: SigLIP's global image token.

    Attributes:
      config: the model's description.
    """

    config: FlairConfig

    @nn.compact
    def __call__(self, local: Float[Array, "B L W"]) -> Float[Array, "B W"]:
        vision, dtype = self.config.vision, jnp.dtype(self.config.dtype)
        probe = self.param("probe_token", jax.nn.initializers.xavier_uniform(), (1, 1, vision.width))
        dense = partial(nn.Dense, vision.width, dtype=dtype, kernel_init=torch_linear_init)
        query = jnp.broadcast_to(dense(name="query")(probe), (local.shape[0], 1, vision.width))
        mixed = attend(*(query, dense(name="key")(local), dense(name="value")(local)), heads=vision.heads, causal=False)
        x = dense(name="out")(mixed).astype(jnp.float32)
        hidden = int(vision.width * vision.mlp_ratio)
        mlp = Mlp(hidden, _ACTIVATION, torch_linear_init, torch_linear_init, dtype, name="mlp")
        return (x + mlp(layer_norm(vision.layer_norm_eps, name="ln")(x)))[:, 0]


class SiglipVisionTower(nn.Module):
    """SigLIP's vision tower; its local tokens are those that its head pools, W wide like the space of the texts.

    Attributes:
      config: the model's description, whose `embed_dim` is `vision.width`.
    """

    config: FlairConfig

    def setup(self) -> None:
        vision = self.config.vision
        check_width(self.config)
        normal = jax.nn.initializers.normal(vision.width**-0.5)
        self.patch_embedding = PatchEmbedding(vision.patch_size, vision.width, self.config.dtype)
        self.position_embedding = self.param("position_embedding", normal, (vision.grid**2, vision.width))
        self.blocks = _blocks(self.config, vision)
        self.ln_post = layer_norm(vision.layer_norm_eps)
        self.head = PoolingHead(self.config)

    def __call__(self, images: Float[Array, "B S1 S2 3"]) -> tuple[Float[Array, "B D"], Float[Array, "B L D"]]:
        """Global [B, D] and local [B, L, D] image tokens, not normalised."""
        config = self.config
        x = self.patch_embedding(images)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width) + resize_grid(self.position_embedding, (rows, columns))[None]
        x = run_stacked(
            *(self.blocks, x),
            layers=config.vision.layers,
            remat=config.remat,
            unroll=config.unroll,
            residual_dtype=config.residual_dtype,
        )
        local = self.ln_post(x)
        return self.head(local), local


class SiglipTextTower(nn.Module):
    """SigLIP's text tower, which reads texts padded to `context_length`, all of it.

    Attributes:
      config: the model's description, whose `text.causal` is false.
    """

    config: FlairConfig

    def setup(self) -> None:
        text, normal = self.config.text, jax.nn.initializers.normal
        if text.causal:
            raise ConfigError("text.tower='siglip' is not causal; set text.causal to false")
        self.token_embedding = self.param("token_embedding", normal(0.02), (text.vocab_size, text.width))
        self.position_embedding = self.param("position_embedding", normal(0.01), (text.context_length, text.width))
        self.blocks = _blocks(self.config, text)
        self.ln_final = layer_norm(text.layer_norm_eps)
        self.projection = nn.Dense(self.config.embed_dim, kernel_init=normal(text.width**-0.5))

    def __call__(self, tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
        """Projected text features [N, D], not normalised, of token ids padded to the context's length."""
        config = self.config
        if tokens.shape[1] != config.text.context_length:
            raise FlairError(
                f"tokens have {tokens.shape[1]} columns; this text tower reads the last of {config.text.context_length}"
                ", to which texts must be padded"
            )
        x = run_stacked(
            *(self.blocks, gather(self.token_embedding)[tokens] + self.position_embedding[None]),
            layers=config.text.layers,
            remat=config.remat,
            unroll=config.unroll,
            residual_dtype=config.residual_dtype,
        )
        return self.projection(self.ln_final(shard_rows(x[:, -1])))


def check_width(config: FlairConfig) -> None:
    """Raises ConfigError unless features are as wide as the vision tower, which has no projection."""
    if config.embed_dim != config.vision.width:
        raise ConfigError(
            f"embed_dim={config.embed_dim}, and vision.tower={config.vision.tower!r} gives features as wide as its "
            f"layers; set it to vision.width={config.vision.width}"
        )
