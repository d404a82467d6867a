"""Search among indexed pictures with text-conditioned re-ranking.

index = SearchIndex.open("pictures.index")
model, params = flair_jax.load("checkpoints/cc3m")
hits = Searcher(index, model, params).search("a red kettle on a gas stove", top=20, rerank=200)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.search.build import IndexSettings as IndexSettings
    from flair_jax.search.build import add_faiss as add_faiss
    from flair_jax.search.build import update as update
    from flair_jax.search.export import EmbeddedTexts as EmbeddedTexts
    from flair_jax.search.export import embed_lines as embed_lines
    from flair_jax.search.export import embed_pictures as embed_pictures
    from flair_jax.search.page import write_page as write_page
    from flair_jax.search.pictures import Picture as Picture
    from flair_jax.search.pictures import find_pictures as find_pictures
    from flair_jax.search.searcher import Hit as Hit
    from flair_jax.search.searcher import Searcher as Searcher
    from flair_jax.search.store import SearchIndex as SearchIndex
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "build": ["IndexSettings", "add_faiss", "update"],
            "export": ["EmbeddedTexts", "embed_lines", "embed_pictures"],
            "page": ["write_page"],
            "pictures": ["Picture", "find_pictures"],
            "searcher": ["Hit", "Searcher"],
            "store": ["SearchIndex"],
        },
    )
