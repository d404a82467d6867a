"""FLAIR, a vision-language model with fine-grained, text-conditioned image representations, in JAX and Flax."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flair_jax.lazy import public

__version__ = "0.2.0"

_configs = os.path.join(__path__[0], "configs")
if not os.path.isdir(_configs):
    raise ImportError(
        f"{_configs} is not a folder: flair_jax/configs and flair_jax/convert are symbolic links, which this checkout "
        "lacks; clone it with `git clone -c core.symlinks=true`"
    )

if TYPE_CHECKING:
    from flair_jax import configs as configs
    from flair_jax import convert as convert
    from flair_jax import data as data
    from flair_jax import demo as demo
    from flair_jax import evaluate as evaluate
    from flair_jax import models as models
    from flair_jax import parallel as parallel
    from flair_jax import plan as plan
    from flair_jax import scoring as scoring
    from flair_jax import search as search
    from flair_jax import show as show
    from flair_jax import train as train
    from flair_jax import weights as weights
    from flair_jax.checkpoint import load as load
    from flair_jax.checkpoint import save as save
    from flair_jax.data.image import preprocess as preprocess
    from flair_jax.data.tokenizer import tokenize as tokenize
    from flair_jax.data.tokenizer import tokenize_for as tokenize_for
    from flair_jax.errors import FlairError as FlairError
    from flair_jax.models.attention_pooling import TextConditionedPooling as TextConditionedPooling
    from flair_jax.models.config import FlairConfig as FlairConfig
    from flair_jax.models.config import TextConfig as TextConfig
    from flair_jax.models.config import VisionConfig as VisionConfig
    from flair_jax.models.flair import Flair as Flair
    from flair_jax.models.module import FlairModule as FlairModule
    from flair_jax.models.normalize import normalize as normalize
    from flair_jax.models.pooling import Pooling as Pooling
    from flair_jax.models.presets import PRESETS as PRESETS
    from flair_jax.models.text import TextTower as TextTower
    from flair_jax.models.vision import VisionTower as VisionTower
    from flair_jax.scoring.metrics import retrieval_metrics as retrieval_metrics
    from flair_jax.search.searcher import Searcher as Searcher
    from flair_jax.settings import TrainSettings as TrainSettings
    from flair_jax.show.draw import overlay as overlay
    from flair_jax.show.maps import attention_maps as attention_maps
    from flair_jax.show.maps import patch_similarity as patch_similarity
    from flair_jax.train.losses import flair_loss as flair_loss
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "checkpoint": ["load", "save"],
            "data.image": ["preprocess"],
            "data.tokenizer": ["tokenize", "tokenize_for"],
            "errors": ["FlairError"],
            "models.attention_pooling": ["TextConditionedPooling"],
            "models.config": ["FlairConfig", "TextConfig", "VisionConfig"],
            "models.flair": ["Flair"],
            "models.module": ["FlairModule"],
            "models.normalize": ["normalize"],
            "models.pooling": ["Pooling"],
            "models.presets": ["PRESETS"],
            "models.text": ["TextTower"],
            "models.vision": ["VisionTower"],
            "scoring.metrics": ["retrieval_metrics"],
            "search.searcher": ["Searcher"],
            "settings": ["TrainSettings"],
            "show.draw": ["overlay"],
            "show.maps": ["attention_maps", "patch_similarity"],
            "train.losses": ["flair_loss"],
        },
        rooms=[
            "configs",
            "convert",
            "data",
            "demo",
            "evaluate",
            "models",
            "parallel",
            "plan",
            "scoring",
            "search",
            "show",
            "train",
            "weights",
        ],
    )
