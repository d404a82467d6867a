"""The Linen module with all of a model's parameters, and its three parts as a description defines them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flair_jax.models.attention_pooling import TextConditionedPooling
from flair_jax.models.config import FlairConfig
from flair_jax.models.normalize import l2_normalize
from flair_jax.models.pooling import Pooling
from flair_jax.models.towers import text_tower, vision_tower


def text_conditioned_pooling(config: FlairConfig) -> TextConditionedPooling:
    """The pooling of a description."""
    return TextConditionedPooling(
        config.embed_dim, config.pooling_heads, layer_norm_eps=config.pooling_layer_norm_eps, dtype=config.dtype
    )


class FlairModule(nn.Module):
    """All parameters of FLAIR: `vision`, `text`, `pooling`, `logit_scale` (its log is stored) and `logit_bias`.

    Attributes:
      config: the description; see `Flair` for the others, which are made from it if they are None.
      vision: vision tower.
      text: text tower.
      pooling: pooling.
    """

    config: FlairConfig
    vision: nn.Module = None  # type: ignore[assignment]  # None until `__post_init__`, and never after it
    text: nn.Module = None  # type: ignore[assignment]
    pooling: Pooling = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.vision = vision_tower(self.config) if self.vision is None else self.vision
        self.text = text_tower(self.config) if self.text is None else self.text
        self.pooling = text_conditioned_pooling(self.config) if self.pooling is None else self.pooling
        super().__post_init__()

    def setup(self) -> None:
        constant = jax.nn.initializers.constant
        self.logit_scale = self.param("logit_scale", constant(self.config.init_logit_scale), ())
        self.logit_bias = self.param("logit_bias", constant(self.config.init_logit_bias), ())

    def __call__(self, images: Float[Array, "B S1 S2 3"], tokens: Int[Array, "N T"]) -> Float[Array, "B N"]:
        """Text-conditioned logits; touches every parameter, so that `init` makes them all."""
        _, local = self.vision(images)
        text = self.text(tokens)
        pooled, _ = self.pooling(local, text)
        return self.scale() * jnp.einsum("bnd,nd->bn", l2_normalize(pooled), l2_normalize(text)) + self.logit_bias

    def global_logits(self, images: Float[Array, "B S1 S2 3"], tokens: Int[Array, "N T"]) -> Float[Array, "B N"]:
        """Scaled cosines of the global features; there is no bias in CLIP's scores."""
        features, _ = self.vision(images)
        return self.scale() * l2_normalize(features) @ l2_normalize(self.text(tokens)).T

    def scale(self) -> Float[Array, ""]:
        """The factor on cosines, of which the logarithm is trained."""
        return jnp.exp(self.logit_scale)
