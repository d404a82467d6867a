"""The kinds of models in the layout of transformers that are read, and how one becomes a model of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flair_jax.models.config import FlairConfig
from flair_jax.models.description import read_json_object
from flair_jax.models.flair import Flair, Params
from flair_jax.models.tokenizer_names import with_file
from flair_jax.weights import dinov3, siglip
from flair_jax.weights.layout import PREPROCESSOR, TOKENIZER, Layout, prepared
from flair_jax.weights.origin import TEXTS, TOWERS
from flair_jax.weights.param_map import ConversionError, params_from_torch

# `model_type` in config.json -> how it is read. docs/extend.md says what a further one needs.
LAYOUTS: dict[str, Layout] = {"siglip": siglip.LAYOUT, "dinov3_vit": dinov3.LAYOUT}


class Towers(NamedTuple):
    """A model whose towers are another's.

    Attributes:
      config: the model.
      params: nested dict of float32 arrays.
      remarks: on how it was read, each a phrase.
      origin: whose towers they are, and what is random, for `source` of a checkpoint's description.
    """

    config: FlairConfig
    params: Params
    remarks: list[str]
    origin: dict[str, str]


def is_read(description: Any) -> bool:
    """Whether the contents of a `config.json` are those of a model of `LAYOUTS`."""
    return isinstance(description, Mapping) and str(description.get("model_type")) in LAYOUTS


def read_towers(
    tensors: Mapping[str, np.ndarray], description: Mapping[str, Any], folder: Path, given: FlairConfig | None
) -> Towers:
    """A model with the towers of one in the layout of transformers, and all else drawn at random (seed 0).

    Args:
      tensors: its state dict.
      description: the contents of its `config.json`.
      folder: where that is, with what else belongs to the model.
      given: the model of `--config`, whose text tower and pooling are taken beside towers for images alone.

    Raises:
      ConversionError: if it is another model than its description says, or something is missing.
      ConfigError: if its sizes do not fit together.
    """
    layout = LAYOUTS[description["model_type"]]
    config = layout.describe(description)
    usual = {name: getattr(layout.vision, name) for name in _PREPARATION}
    vision, remarks = prepared(dataclasses.replace(config.vision, **usual), _read_json(folder / PREPROCESSOR))
    config = dataclasses.replace(config, vision=vision)
    if not layout.tokenizer:
        if given is not None:
            config = dataclasses.replace(given, embed_dim=config.embed_dim, vision=vision)
            remarks.append("--config gives the text tower and the pooling")
    elif given is not None:
        raise ConversionError("--config: the config.json beside the weights describes the whole model; leave it out")
    elif not (folder / TOKENIZER).is_file():
        raise ConversionError(
            f"{TOKENIZER} is not beside the weights, and without it no text can be read; take it from where they are "
            "published"
        )
    else:
        config = dataclasses.replace(config, text=with_file(config.text, layout.tokenizer, folder / TOKENIZER))
    left_out = [name for name in layout.passed_over if name in tensors]
    if left_out:
        remarks.append(f"passed over: {', '.join(left_out)}")
    taken = {name: _scalar(tensor) for name, tensor in tensors.items() if name not in left_out}
    params = params_from_torch(taken, config, layout.rows)
    origin = {TOWERS: f"{layout.name}; the pooling is random and must be trained"}
    if not layout.tokenizer:
        origin[TEXTS] = "random"
    return Towers(config, _completed(params, config), remarks, origin)


_PREPARATION = ("image_mean", "image_std", "interpolation", "resize_mode")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return read_json_object(file)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{file}: cannot be read as JSON ({error})") from None


def _scalar(tensor: np.ndarray) -> np.ndarray:
    """A tensor of a single number without axes, as parameters have it."""
    return tensor.reshape(()) if tensor.shape == (1,) else tensor


def _completed(params: Params, config: FlairConfig) -> Params:
    """The parameters, with those that are missing drawn as for training from nothing (seed 0)."""
    given = flatten_dict(params)

    def missing(key: jax.Array) -> dict[tuple[str, ...], jax.Array]:
        return {path: leaf for path, leaf in flatten_dict(Flair(config).init(key)).items() if path not in given}

    return unflatten_dict({**given, **jax.device_get(jax.jit(missing)(jax.random.key(0)))})
