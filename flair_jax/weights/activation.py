"""Which activation weights were trained with. No tensor shows it, and the wrong one gives slightly wrong features."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from flair_jax.models.config import FlairConfig
from flair_jax.weights.infer import infer_config
from flair_jax.weights.long_text import is_long_clip
from flair_jax.weights.param_map import ConversionError
from flair_jax.weights.read import OPENAI_SIZES, Weights

# Names of the choices -> `FlairConfig.quick_gelu`.
ACTIVATIONS = {"gelu": False, "quick_gelu": True}


def told_by(weights: Weights, name: str) -> dict[str, bool]:
    """What a file and its name say: who says it -> whether it is QuickGELU."""
    told = {}
    if weights.sizes.keys() == OPENAI_SIZES.keys():
        told["a file of OpenAI's CLIP"] = True
    if is_long_clip(weights.tensors):  # its model/model_longclip.py, the only one with that table, has no other
        told["a file of Long-CLIP"] = True
    if weights.quick_gelu is not None:
        told["what stands in the file beside the tensors"] = weights.quick_gelu
    if re.search(r"quick[-_]?gelu", name, re.IGNORECASE):
        told[f"the name {name}"] = True
    return told


def settle(told: Mapping[str, bool], *, clip: bool) -> tuple[bool, str]:
    """Whether it is QuickGELU, and who says so.

    Args:
      told: who says it -> whether it is QuickGELU.
      clip: whether the weights are those of a CLIP, of which both kinds are about; a FLAIR has the exact GELU unless
        it is told otherwise.

    Raises:
      ConversionError: if nobody says it of a CLIP, or they contradict each other.
    """
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{'QuickGELU' if quick else 'GELU'} by {who}" for who, quick in told.items())
        raise ConversionError(f"its activation is {listed}; choose with --activation gelu or --activation quick_gelu")
    if told:
        return next((quick, who) for who, quick in told.items())
    if clip:
        raise ConversionError(
            "nothing says which activation these CLIP towers were trained with, and with the wrong one every feature "
            "is off; pass --activation quick_gelu (all of OpenAI's, most of DFN's and MetaCLIP's, and what open_clip "
            "calls -quickgelu) or --activation gelu (most others of open_clip)"
        )
    return False, "FLAIR's own"


def flair_config(weights: Weights, name: str) -> FlairConfig:
    """The model in a weight file of FLAIR.

    Raises:
      ConversionError: if it is another.
      ConfigError: if the numbers of heads are not known.
    """
    config = infer_config(weights.tensors, None)
    return dataclasses.replace(config, quick_gelu=settle(told_by(weights, name), clip=False)[0])
