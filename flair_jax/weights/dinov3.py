"""DINOv3's vision transformers in the layout of transformers: `DINOv3ViTModel`, `model_type` "dinov3_vit".

Names and defaults are those of transformers 5.24 (`models/dinov3_vit/modeling_dinov3_vit.py` and
`configuration_dinov3_vit.py`). The published ViT-S/16, B/16 and L/16 are of this kind; S+, H+ and 7B have gated MLPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flair_jax.models.config import FlairConfig, VisionConfig
from flair_jax.models.dinov3 import REGISTERS, ROPE_BASE
from flair_jax.weights.layout import Layout, head_width, read_fields, require, sizes
from flair_jax.weights.param_map import CONV, LINEAR, Row, layer_norm_rows, linear_rows

_ONLY: dict[str, Any] = {
    "hidden_act": "gelu",
    "num_channels": 3,
    "rope_theta": ROPE_BASE,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
}
_DEFAULTS = {
    **_ONLY,
    "num_register_tokens": 0,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 16,
}


def _describe(data: Mapping[str, Any]) -> FlairConfig:
    fields = read_fields(data, "", _DEFAULTS)
    require(fields, "", {**_ONLY, "num_register_tokens": REGISTERS})
    return FlairConfig(
        embed_dim=fields["hidden_size"],
        vision=VisionConfig(
            tower="dinov3",
            image_size=fields["image_size"],
            patch_size=fields["patch_size"],
            head_width=head_width(fields, ""),
            **sizes(fields, ""),
        ),
    )


_LAYER, _BLOCKS = "layer.{}", "vision/blocks"
_ROWS = (
    Row("embeddings.cls_token", ("vision/class_token",)),
    Row("embeddings.register_tokens", ("vision/register_tokens",)),
    Row("embeddings.patch_embeddings.weight", ("vision/patch_embedding/kernel",), CONV),
    Row("embeddings.patch_embeddings.bias", ("vision/patch_embedding/bias",)),
    *layer_norm_rows(f"{_LAYER}.norm1", f"{_BLOCKS}/ln_1"),
    *linear_rows(f"{_LAYER}.attention.q_proj", f"{_BLOCKS}/attention/query"),
    Row(f"{_LAYER}.attention.k_proj.weight", (f"{_BLOCKS}/attention/key/kernel",), LINEAR),
    *linear_rows(f"{_LAYER}.attention.v_proj", f"{_BLOCKS}/attention/value"),
    *linear_rows(f"{_LAYER}.attention.o_proj", f"{_BLOCKS}/attention/out"),
    Row(f"{_LAYER}.layer_scale1.lambda1", (f"{_BLOCKS}/attention_factor/scale",)),
    *layer_norm_rows(f"{_LAYER}.norm2", f"{_BLOCKS}/ln_2"),
    *linear_rows(f"{_LAYER}.mlp.up_proj", f"{_BLOCKS}/mlp/up"),
    *linear_rows(f"{_LAYER}.mlp.down_proj", f"{_BLOCKS}/mlp/down"),
    Row(f"{_LAYER}.layer_scale2.lambda1", (f"{_BLOCKS}/mlp_factor/scale",)),
    *layer_norm_rows("norm", "vision/ln_post"),
)

LAYOUT = Layout(
    name="DINOv3",
    describe=_describe,
    rows=_ROWS,
    passed_over=("embeddings.mask_token",),  # of its pretraining
    vision=VisionConfig(  # ImageNet's mean and deviation
        image_mean=(0.485, 0.456, 0.406),
        image_std=(0.229, 0.224, 0.225),
        interpolation="bilinear",
        resize_mode="squash",
    ),
    tokenizer="",
)
