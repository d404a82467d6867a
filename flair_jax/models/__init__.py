"""The FLAIR model as functional Flax (Linen) modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.models.attention_pooling import TextConditionedPooling as TextConditionedPooling
    from flair_jax.models.config import FlairConfig as FlairConfig
    from flair_jax.models.config import TextConfig as TextConfig
    from flair_jax.models.config import VisionConfig as VisionConfig
    from flair_jax.models.description import config_from_json as config_from_json
    from flair_jax.models.description import config_to_json as config_to_json
    from flair_jax.models.flair import Flair as Flair
    from flair_jax.models.flair import Params as Params
    from flair_jax.models.module import FlairModule as FlairModule
    from flair_jax.models.module import text_conditioned_pooling as text_conditioned_pooling
    from flair_jax.models.normalize import l2_normalize as l2_normalize
    from flair_jax.models.pooling import Pooling as Pooling
    from flair_jax.models.pooling import PreparedTexts as PreparedTexts
    from flair_jax.models.presets import PRESETS as PRESETS
    from flair_jax.models.presets import read_config as read_config
    from flair_jax.models.resize import resize_position_embedding as resize_position_embedding
    from flair_jax.models.text import TextTower as TextTower
    from flair_jax.models.tokens import PackedTexts as PackedTexts
    from flair_jax.models.towers import text_tower as text_tower
    from flair_jax.models.towers import vision_tower as vision_tower
    from flair_jax.models.transformer import Attention as Attention
    from flair_jax.models.transformer import Block as Block
    from flair_jax.models.transformer import Mlp as Mlp
    from flair_jax.models.transformer import run_stacked as run_stacked
    from flair_jax.models.vision import VisionTower as VisionTower
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "attention_pooling": ["TextConditionedPooling"],
            "config": ["FlairConfig", "TextConfig", "VisionConfig"],
            "description": ["config_from_json", "config_to_json"],
            "flair": ["Flair", "Params"],
            "module": ["FlairModule", "text_conditioned_pooling"],
            "normalize": ["l2_normalize"],
            "pooling": ["Pooling", "PreparedTexts"],
            "presets": ["PRESETS", "read_config"],
            "resize": ["resize_position_embedding"],
            "text": ["TextTower"],
            "tokens": ["PackedTexts"],
            "towers": ["text_tower", "vision_tower"],
            "transformer": ["Attention", "Block", "Mlp", "run_stacked"],
            "vision": ["VisionTower"],
        },
    )
