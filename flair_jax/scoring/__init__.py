"""Scores of images and texts, and metrics of them, for search, plans and every evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.scoring.blocks import BlockStore as BlockStore
    from flair_jax.scoring.embedding import BrokenPicturesError as BrokenPicturesError
    from flair_jax.scoring.embedding import CutOff as CutOff
    from flair_jax.scoring.embedding import compute_in_blocks as compute_in_blocks
    from flair_jax.scoring.embedding import cut_off as cut_off
    from flair_jax.scoring.embedding import embed_texts as embed_texts
    from flair_jax.scoring.embedding import embed_tokens as embed_tokens
    from flair_jax.scoring.maps import MAPS as MAPS
    from flair_jax.scoring.maps import maps_of as maps_of
    from flair_jax.scoring.maps import pair_maps as pair_maps
    from flair_jax.scoring.metrics import Ranks as Ranks
    from flair_jax.scoring.metrics import Ties as Ties
    from flair_jax.scoring.metrics import class_ranks as class_ranks
    from flair_jax.scoring.metrics import classification_metrics as classification_metrics
    from flair_jax.scoring.metrics import retrieval_metrics as retrieval_metrics
    from flair_jax.scoring.ranking import ScoreBlock as ScoreBlock
    from flair_jax.scoring.ranking import rank as rank
    from flair_jax.scoring.scorer import RetrievalModel as RetrievalModel
    from flair_jax.scoring.scorer import Retriever as Retriever
    from flair_jax.scoring.scorer import top_k as top_k
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "blocks": ["BlockStore"],
            "embedding": [
                "BrokenPicturesError",
                "CutOff",
                "compute_in_blocks",
                "cut_off",
                "embed_texts",
                "embed_tokens",
            ],
            "maps": ["MAPS", "maps_of", "pair_maps"],
            "metrics": ["Ranks", "Ties", "class_ranks", "classification_metrics", "retrieval_metrics"],
            "ranking": ["ScoreBlock", "rank"],
            "scorer": ["RetrievalModel", "Retriever", "top_k"],
        },
    )
