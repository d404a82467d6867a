"""FLAIR, a vision-language model with fine-grained, text-conditioned image representations, in JAX and Flax."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flair_jax.checkpoint import load as load
    from flair_jax.data.image import preprocess as preprocess
    from flair_jax.data.tokenizer import tokenize as tokenize
    from flair_jax.errors import FlairError as FlairError
    from flair_jax.models.config import FlairConfig as FlairConfig
    from flair_jax.models.flair import Flair as Flair
    from flair_jax.models.normalize import normalize as normalize
    from flair_jax.models.presets import PRESETS as PRESETS
    from flair_jax.scoring.metrics import retrieval_metrics as retrieval_metrics
    from flair_jax.show.draw import overlay as overlay
    from flair_jax.show.maps import attention_maps as attention_maps
    from flair_jax.show.maps import patch_similarity as patch_similarity

__version__ = "0.1.0"

# Public name -> module. Modules are imported on first use, so that input workers and the command line's help start
# fast, and tokenising or reading pictures loads no JAX.
_HOME = {
    "Flair": "models.flair",
    "FlairConfig": "models.config",
    "FlairError": "errors",
    "PRESETS": "models.presets",
    "attention_maps": "show.maps",
    "load": "checkpoint",
    "normalize": "models.normalize",
    "overlay": "show.draw",
    "patch_similarity": "show.maps",
    "preprocess": "data.image",
    "retrieval_metrics": "scoring.metrics",
    "tokenize": "data.tokenizer",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
