"""The FLAIR model as functional Flax (Linen) modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.models.config import PRESETS as PRESETS
    from flair_jax.models.config import FlairConfig as FlairConfig
    from flair_jax.models.config import TextConfig as TextConfig
    from flair_jax.models.config import VisionConfig as VisionConfig
    from flair_jax.models.config import config_from_json as config_from_json
    from flair_jax.models.config import config_to_json as config_to_json
    from flair_jax.models.config import read_config as read_config
    from flair_jax.models.flair import Flair as Flair
    from flair_jax.models.flair import FlairModule as FlairModule
    from flair_jax.models.flair import Params as Params
    from flair_jax.models.normalize import l2_normalize as l2_normalize
    from flair_jax.models.pooling import PreparedImage as PreparedImage
    from flair_jax.models.pooling import PreparedTexts as PreparedTexts
    from flair_jax.models.pooling import TextConditionedPooling as TextConditionedPooling
    from flair_jax.models.resize import resize_position_embedding as resize_position_embedding
    from flair_jax.models.text import TextTower as TextTower
    from flair_jax.models.transformer import Attention as Attention
    from flair_jax.models.transformer import Block as Block
    from flair_jax.models.transformer import Mlp as Mlp
    from flair_jax.models.transformer import run_stacked as run_stacked
    from flair_jax.models.vision import VisionTower as VisionTower
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "config": [
                "PRESETS",
                "FlairConfig",
                "TextConfig",
                "VisionConfig",
                "config_from_json",
                "config_to_json",
                "read_config",
            ],
            "flair": ["Flair", "FlairModule", "Params"],
            "normalize": ["l2_normalize"],
            "pooling": ["PreparedImage", "PreparedTexts", "TextConditionedPooling"],
            "resize": ["resize_position_embedding"],
            "text": ["TextTower"],
            "transformer": ["Attention", "Block", "Mlp", "run_stacked"],
            "vision": ["VisionTower"],
        },
    )
