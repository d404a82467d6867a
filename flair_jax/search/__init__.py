"""Search among indexed pictures with text-conditioned re-ranking.

index = SearchIndex.open("pictures.index")
model, params = flair_jax.load("checkpoints/cc3m")
hits = Searcher(index, model, params).search("a red kettle on a gas stove", top=20, rerank=200)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flair_jax.search.searcher import Hit as Hit
    from flair_jax.search.searcher import Searcher as Searcher
    from flair_jax.search.store import SearchIndex as SearchIndex

# Public name -> module, imported on first use: to open an index loads no JAX.
_HOME = {"Hit": "searcher", "SearchIndex": "store", "Searcher": "searcher"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
