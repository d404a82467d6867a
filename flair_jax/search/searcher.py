"""From a sentence to pictures: candidates by global similarity, re-ranked with text-conditioned pooling."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np

from flair_jax.data.tokenizer import tokenize_for
from flair_jax.errors import FlairError, SearchIndexError, require_text
from flair_jax.models.flair import Flair, Params
from flair_jax.scoring.scorer import Retriever
from flair_jax.search.candidates import ExactCandidates, FaissCandidates
from flair_jax.search.fingerprint import fingerprint
from flair_jax.search.store import SearchIndex

# Candidates scored at once over all devices: bounds memory, and one shape is compiled for any number of them.
_BLOCK = 64


class Hit(NamedTuple):
    """A picture that was found.

    Attributes:
      path: absolute.
      score: text-conditioned cosine, by which hits are ordered.
      global_score: cosine of the global features.
    """

    path: str
    score: float
    global_score: float


class Searcher:
    """Finds pictures for sentences; thread-safe. The first sentence of each length compiles for seconds."""

    def __init__(self, index: SearchIndex, model: Flair, params: Params) -> None:
        """Puts the model on all local devices.

        Args:
          index: where to search.
          model: the one that made the index, such as `flair_jax.load` gives.
          params: its parameters.

        Raises:
          SearchIndexError: if the index was made by another checkpoint.
        """
        self._fingerprint, self._text = fingerprint(model, params), model.config.text
        self.use(index)
        self._retriever = Retriever(model, params)

    def use(self, index: SearchIndex) -> None:
        """Searches this index from now on, such as the same one opened again after an update; compiles nothing.

        Raises:
          SearchIndexError: if it was made by another checkpoint.
        """
        if self._fingerprint != index.manifest.fingerprint:
            raise SearchIndexError(
                f"{index.path}: was made by another checkpoint than the one at hand"
                + (f", {index.manifest.checkpoint}" if index.manifest.checkpoint else "")
                + "; search with that one, or index again with this one and another --output"
            )
        with_faiss = index.manifest.faiss and importlib.util.find_spec("faiss") is not None
        # One assignment, so that a search under way in another thread sees one state.
        self._state = index, FaissCandidates(index) if with_faiss else ExactCandidates(index)

    @property
    def exact(self) -> bool:
        """Whether candidates are found by comparison with every picture, rather than by FAISS."""
        return isinstance(self._state[1], ExactCandidates)

    def search(self, sentence: str, top: int = 20, rerank: int = 200) -> list[Hit]:
        """The pictures that fit a sentence best, best first; among equals the one that was indexed first.

        Args:
          sentence: any length; what exceeds the context of the text tower is cut off.
          top: hits wanted; all pictures if there are fewer.
          rerank: candidates by global similarity that are scored with pooling; at least `top`.

        Raises:
          FlairError: if the sentence is empty or not valid Unicode, or a number is less than 1.
          SearchIndexError: if the index is damaged, or was replaced since it was opened.
        """
        if not sentence.strip():
            raise FlairError("the sentence is empty; describe what the picture shows")
        require_text(sentence)
        if top < 1 or rerank < 1:
            raise FlairError(f"top={top} and rerank={rerank} must be at least 1")
        text = self._retriever.encode_texts(tokenize_for(self._text, [sentence]))[0]
        index, candidates = self._state
        rows, global_scores = candidates(text, max(top, rerank))
        scores = self._rerank(index, rows, text)
        best = np.argsort(-scores, kind="stable")[:top]  # rows ascend, so among equals the lower stays first
        return [Hit(index.picture(int(rows[i])), float(scores[i]), float(global_scores[i])) for i in best]

    def _rerank(self, index: SearchIndex, rows: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Text-conditioned cosines [K]."""
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            scores[block] = self._retriever.score_text(index.local_tokens(rows[block]), text, pad_to=_BLOCK)
        return scores
