"""The named models, and reading a model by a preset's name or from a JSON file. Imports no JAX."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from flair_jax.errors import ConfigError
from flair_jax.fields import did_you_mean
from flair_jax.files import expand
from flair_jax.models.config import FlairConfig, TextConfig, VisionConfig
from flair_jax.models.description import config_from_json, read_json_object
from flair_jax.models.tokenizer_names import found_beside

_VISION_L = VisionConfig(patch_size=14, width=1024, layers=24)
_TEXT_L = TextConfig(width=768, heads=12)

# ViT-B-16-FLAIR is the released model; the others have the published ViT and CLIP shapes, for research, and no weights.
# Those that end in -quickgelu take OpenAI's towers.
PRESETS: dict[str, FlairConfig] = {
    "ViT-B-16-FLAIR": FlairConfig(),
    "ViT-B-32-FLAIR": FlairConfig(vision=VisionConfig(patch_size=32)),
    "ViT-L-14-FLAIR": FlairConfig(embed_dim=768, vision=_VISION_L, text=_TEXT_L),
    "ViT-L-16-FLAIR": FlairConfig(embed_dim=768, vision=dataclasses.replace(_VISION_L, patch_size=16), text=_TEXT_L),
    "tiny": FlairConfig(
        embed_dim=64,
        vision=VisionConfig(image_size=64, patch_size=16, width=96, layers=2, head_width=24),
        text=TextConfig(width=64, layers=2, heads=4),
    ),
    # Of the demonstration. Pixels are scaled down, so that at first they are no louder than the positions beside them;
    # logits start at what its batches make likely, so that features need not move to a common direction first.
    "scenes": FlairConfig(
        embed_dim=128,
        vision=VisionConfig(
            image_size=72,
            patch_size=8,
            width=96,
            layers=2,
            head_width=24,
            image_mean=(0.4, 0.4, 0.4),
            image_std=(4.0, 4.0, 4.0),
        ),
        text=TextConfig(context_length=36, width=64, layers=2, heads=4),
        init_logit_scale=math.log(5),
        init_logit_bias=-3.2,
    ),
}
PRESETS |= {
    f"{name}-quickgelu": dataclasses.replace(PRESETS[name], quick_gelu=True)
    for name in ("ViT-B-16-FLAIR", "ViT-B-32-FLAIR", "ViT-L-14-FLAIR")
}
# The released model with Long-CLIP's context, as `flair-jax convert --context-length 248` makes it of the weights.
PRESETS["ViT-B-16-FLAIR-248"] = FlairConfig(text=TextConfig(context_length=248))


def read_config(name_or_path: str | Path) -> FlairConfig:
    """A preset by its name, or a model description from a JSON file.

    Raises:
      ConfigError: if it is neither, or the file cannot be read.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = expand(name_or_path)
    if not path.is_file():
        near = did_you_mean(str(name_or_path), PRESETS)
        raise ConfigError(
            f"{name_or_path}: neither a JSON file nor a preset; the presets are {', '.join(PRESETS)}{near}"
        )
    try:
        data = read_json_object(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
    return found_beside(config_from_json(data, where=str(path)), path.parent)
