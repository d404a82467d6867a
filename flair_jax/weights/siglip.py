"""SigLIP and SigLIP 2 of fixed resolution in the layout of transformers: `SiglipModel`, `model_type` "siglip".

Names and defaults are those of transformers 5.24 (`models/siglip/modeling_siglip.py` and `configuration_siglip.py`).
The published SigLIP 2 (google/siglip2-base-patch16-224 and others but the NaFlex ones) are of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flair_jax.models.config import FlairConfig, TextConfig, VisionConfig
from flair_jax.weights.layout import Layout, head_width, read_fields, require, sizes
from flair_jax.weights.param_map import (
    CONV,
    LINEAR,
    ConversionError,
    Row,
    layer_norm_rows,
    linear_rows,
    packed_attention_rows,
)

_SIZES = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
_VISION = {**_SIZES, "num_channels": 3, "image_size": 224, "patch_size": 16, "vision_use_head": True}
_TEXT = {**_SIZES, "vocab_size": 32000, "max_position_embeddings": 64}
_ONLY = {"hidden_act": "gelu_pytorch_tanh"}


def _describe(data: Mapping[str, Any]) -> FlairConfig:
    vision = read_fields(data.get("vision_config") or {}, "vision_config.", _VISION)
    text = read_fields(data.get("text_config") or {}, "text_config.", _TEXT)
    require(vision, "vision_config.", {**_ONLY, "num_channels": 3, "vision_use_head": True})
    require(text, "text_config.", _ONLY)
    projected = (data.get("text_config") or {}).get("projection_size") or text["hidden_size"]
    if projected != vision["hidden_size"]:
        raise ConversionError(
            f"config.json: text_config.projection_size is {projected}, and images have {vision['hidden_size']} channels"
        )
    return FlairConfig(
        embed_dim=vision["hidden_size"],
        vision=VisionConfig(
            tower="siglip",
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            head_width=head_width(vision, "vision_config."),
            **sizes(vision, "vision_config."),
        ),
        text=TextConfig(
            tower="siglip",
            causal=False,
            context_length=text["max_position_embeddings"],
            vocab_size=text["vocab_size"],
            heads=text["num_attention_heads"],
            **sizes(text, "text_config."),
        ),
    )


def _blocks(torch: str, params: str) -> list[Row]:
    torch += ".encoder.layers.{}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    attention = [
        row
        for name, ours in names.items()
        for row in linear_rows(f"{torch}.self_attn.{name}", f"{params}/attention/{ours}")
    ]
    return [
        *layer_norm_rows(f"{torch}.layer_norm1", f"{params}/ln_1"),
        *attention,
        *layer_norm_rows(f"{torch}.layer_norm2", f"{params}/ln_2"),
        *linear_rows(f"{torch}.mlp.fc1", f"{params}/mlp/up"),
        *linear_rows(f"{torch}.mlp.fc2", f"{params}/mlp/down"),
    ]


_ROWS = (
    Row("logit_scale", ("logit_scale",)),
    Row("logit_bias", ("logit_bias",)),
    Row("vision_model.embeddings.patch_embedding.weight", ("vision/patch_embedding/kernel",), CONV),
    Row("vision_model.embeddings.patch_embedding.bias", ("vision/patch_embedding/bias",)),
    Row("vision_model.embeddings.position_embedding.weight", ("vision/position_embedding",)),
    *_blocks("vision_model", "vision/blocks"),
    *layer_norm_rows("vision_model.post_layernorm", "vision/ln_post"),
    Row("vision_model.head.probe", ("vision/head/probe_token",)),
    *packed_attention_rows("vision_model.head.attention", "vision/head"),
    *layer_norm_rows("vision_model.head.layernorm", "vision/head/ln"),
    *linear_rows("vision_model.head.mlp.fc1", "vision/head/mlp/up"),
    *linear_rows("vision_model.head.mlp.fc2", "vision/head/mlp/down"),
    Row("text_model.embeddings.token_embedding.weight", ("text/token_embedding",)),
    Row("text_model.embeddings.position_embedding.weight", ("text/position_embedding",)),
    *_blocks("text_model", "text/blocks"),
    *layer_norm_rows("text_model.final_layer_norm", "text/ln_final"),
    Row("text_model.head.weight", ("text/projection/kernel",), LINEAR),
    Row("text_model.head.bias", ("text/projection/bias",)),
)

LAYOUT = Layout(
    name="SigLIP",
    describe=_describe,
    rows=_ROWS,
    # Numbers from 0 on, which files of older versions have.
    passed_over=("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids"),
    vision=VisionConfig(
        image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5), interpolation="bilinear", resize_mode="squash"
    ),
    tokenizer="siglip2",
)
