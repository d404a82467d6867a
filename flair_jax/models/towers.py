"""The towers that a description can name: one row of a table each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn

from flair_jax.errors import ConfigError
from flair_jax.models.config import FlairConfig
from flair_jax.models.dinov3 import DinoV3Tower
from flair_jax.models.siglip import SiglipTextTower, SiglipVisionTower
from flair_jax.models.text import TextTower
from flair_jax.models.vision import VisionTower

Tower = Callable[[FlairConfig], nn.Module]


def _clip_vision(config: FlairConfig) -> VisionTower:
    return VisionTower(
        image_size=config.vision.image_size,
        patch_size=config.vision.patch_size,
        width=config.vision.width,
        layers=config.vision.layers,
        heads=config.vision.heads,
        embed_dim=config.embed_dim,
        mlp_ratio=config.vision.mlp_ratio,
        quick_gelu=config.quick_gelu,
        layer_norm_eps=config.vision.layer_norm_eps,
        dtype=config.dtype,
        remat=config.remat,
        unroll=config.unroll,
        attention=config.attention,
        residual_dtype=config.residual_dtype,
    )


def _clip_text(config: FlairConfig) -> TextTower:
    return TextTower(
        context_length=config.text.context_length,
        vocab_size=config.text.vocab_size,
        width=config.text.width,
        layers=config.text.layers,
        heads=config.text.heads,
        embed_dim=config.embed_dim,
        mlp_ratio=config.text.mlp_ratio,
        quick_gelu=config.quick_gelu,
        layer_norm_eps=config.text.layer_norm_eps,
        end_of_text_id=config.text.end_of_text_id,
        causal=config.text.causal,
        dtype=config.dtype,
        remat=config.remat,
        unroll=config.unroll,
        attention=config.attention,
        residual_dtype=config.residual_dtype,
    )


# A name that `VisionConfig.tower` and `TextConfig.tower` take -> what makes the module from the model's description.
# docs/extend.md says what a further one needs.
VISION_TOWERS: dict[str, Tower] = {"clip": _clip_vision, "siglip": SiglipVisionTower, "dinov3": DinoV3Tower}
TEXT_TOWERS: dict[str, Tower] = {"clip": _clip_text, "siglip": SiglipTextTower}


def vision_tower(config: FlairConfig) -> nn.Module:
    """The vision tower of a description: images [B, S1, S2, 3] -> global [B, D] and local [B, L, D].

    Raises:
      ConfigError: if it names an unknown one.
    """
    return _find("vision", config.vision.tower, VISION_TOWERS)(config)


def text_tower(config: FlairConfig) -> nn.Module:
    """The text tower of a description: token ids [N, T] -> [N, D].

    Raises:
      ConfigError: if it names an unknown one.
    """
    return _find("text", config.text.tower, TEXT_TOWERS)(config)


def _find(kind: str, name: str, table: Mapping[str, Tower]) -> Tower:
    if name not in table:
        raise ConfigError(f"{kind}.tower={name!r} is unknown; the towers are {', '.join(table)}")
    return table[name]
