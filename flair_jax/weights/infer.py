"""Which model a PyTorch state dict is of: the sizes that its tensors show, and the heads, which they do not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flair_jax.errors import ConfigError, plural
from flair_jax.models.config import FlairConfig
from flair_jax.models.presets import PRESETS
from flair_jax.weights.param_map import ConversionError

_RESIZABLE = ("image_size", "context_length", "vocab_size")


def infer_config(tensors: Mapping[str, np.ndarray], given: FlairConfig | None) -> FlairConfig:
    """The model that a state dict holds.

    Tensors show every size but the numbers of attention heads. These come from `given`, or else from the preset that
    has the same sizes.

    Args:
      tensors: PyTorch state dict.
      given: the model as the user describes it, or None.

    Raises:
      ConversionError: if the tensors are not those of a FLAIR model, or contradict `given`.
      ConfigError: if the numbers of heads are not known.
    """
    sizes = _sizes(tensors)
    for config in PRESETS.values() if given is None else (given,):
        conflicts = [
            f"{name} is {found} in the file, {expected} in the description"
            for (name, found), (_, expected) in zip(sizes.items(), _described(config), strict=True)
            # A preset trained at another picture size, context or vocabulary has the same heads.
            if found != expected and not (given is None and name in _RESIZABLE)
        ]
        if not conflicts:
            return dataclasses.replace(
                config,
                embed_dim=sizes["embed_dim"],
                vision=dataclasses.replace(config.vision, image_size=sizes["image_size"]),
                text=dataclasses.replace(
                    config.text, context_length=sizes["context_length"], vocab_size=sizes["vocab_size"]
                ),
            )
        if given is not None:
            raise ConversionError("the file is not the model described: " + "; ".join(conflicts))
    listed = ", ".join(f"{name}={size}" for name, size in sizes.items())
    raise ConfigError(
        f"no preset has these sizes ({listed}), and tensors do not show the numbers of attention heads; "
        "pass --config with the model's JSON file (as the PyTorch release has) or a preset's name"
    )


def _described(config: FlairConfig) -> Iterator[tuple[str, Any]]:
    """The sizes of `_sizes`, in its order, from a description."""
    vision, text = config.vision, config.text
    yield "embed_dim", config.embed_dim
    yield "image_size", vision.image_size
    yield "patch_size", vision.patch_size
    yield "vision_width", vision.width
    yield "vision_layers", vision.layers
    yield "vision_mlp_width", int(vision.width * vision.mlp_ratio)
    yield "context_length", text.context_length
    yield "vocab_size", text.vocab_size
    yield "text_width", text.width
    yield "text_layers", text.layers
    yield "text_mlp_width", int(text.width * text.mlp_ratio)


def _sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes that the tensors show."""
    foreign = any(name.startswith(("vision_model.", "embeddings.")) for name in tensors)

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or len(np.shape(tensors[name])) != rank:
            found = list(np.shape(tensors[name])) if name in tensors else "missing"
            raise ConversionError(
                f"not a FLAIR checkpoint: {name}, which gives the model's size, is {found}; "
                f"the file holds {plural(len(tensors), 'tensor')}"
                + (f", such as {next(iter(tensors))}" if tensors else "")
                + (
                    "; these names are transformers', of which docs/convert.md lists what is read, by the config.json "
                    "beside it; of others take the open_clip_* file of the same model"
                    if foreign
                    else ""
                )
            )
        return np.shape(tensors[name])

    def layers(prefix: str) -> int:
        found = (re.match(re.escape(prefix) + r"\.resblocks\.([0-9]{1,9})\.", name) for name in tensors)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    vision_width, _, patch_size, _ = shape("visual.conv1.weight", 4)
    context_length, text_width = shape("positional_embedding", 2)
    grid = round((shape("visual.positional_embedding", 2)[0] - 1) ** 0.5)
    return {
        "embed_dim": shape("image_post.proj", 2)[1],
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "vision_width": vision_width,
        "vision_layers": layers("visual.transformer"),
        "vision_mlp_width": shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        "context_length": context_length,
        "vocab_size": shape("token_embedding.weight", 2)[0],
        "text_width": text_width,
        "text_layers": layers("transformer"),
        "text_mlp_width": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
    }
