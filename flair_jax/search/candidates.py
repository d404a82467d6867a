"""Candidates by global similarity: exact, or through FAISS where an index is too large to be read for each query.

Imports no JAX.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from flair_jax.errors import SearchIndexError
from flair_jax.files import replace_when_complete
from flair_jax.packages import how_to_install
from flair_jax.search.store import SearchIndex

FAISS_FILE = "candidates.faiss"

# FAISS's guidelines: 4 to 16 times the root of N lists, and 39 training points a list at least. A sixteenth of the
# lists is read for a query, more than is usual among pictures, because texts lie apart from the pictures' clusters.
_LISTS_PER_ROOT = 4
_TRAINING_POINTS = 50
_PART_READ = 16
_LEAST_LISTS_READ = 16


class Candidates(NamedTuple):
    """Rows of an index, ascending, and their global cosines."""

    rows: np.ndarray
    scores: np.ndarray


class ExactCandidates:
    """Compares the text with every picture. Reads 4 D bytes a picture, which stay in the page cache."""

    def __init__(self, index: SearchIndex) -> None:
        """For one index."""
        self._index = index

    def __call__(self, text: np.ndarray, count: int) -> Candidates:
        """The `count` rows with the highest cosines with text features [D]; among equals, the lower rows."""
        scores = self._index.global_scores(text)
        rows = highest(scores, count)
        return Candidates(rows, scores[rows])


class FaissCandidates:
    """Asks the FAISS file, which is mapped rather than read. Cosines are computed anew, exactly."""

    def __init__(self, index: SearchIndex) -> None:
        """For an index whose manifest says that it has the file.

        Raises:
          SearchIndexError: if the file cannot be read.
        """
        self._index, self._faiss = index, import_faiss()
        try:
            self._lists = self._faiss.read_index(str(index.path / FAISS_FILE), self._faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise SearchIndexError(
                f"{index.path / FAISS_FILE}: cannot be read; run `flair-jax index` again with --faiss ({error})"
            ) from None
        self._lists.nprobe = max(_LEAST_LISTS_READ, self._lists.nlist // _PART_READ)

    def __call__(self, text: np.ndarray, count: int) -> Candidates:
        """As `ExactCandidates`, but a few rows may be missed in favour of others that are nearly as close."""
        query = text / max(np.linalg.norm(text), 1e-12)
        _, found = self._lists.search(query[None], min(count, len(self._index)))
        rows = np.sort(found[0][found[0] >= 0])
        if len(rows) < min(count, len(self._index)):  # the lists that were read hold fewer
            return ExactCandidates(self._index)(text, count)
        return Candidates(rows, self._index.global_features(rows) @ query)


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices [count] of the highest of N scores [N] (or of all), ascending; among equals the lower ones."""
    count = min(count, len(scores))
    if count == 0:
        return np.zeros(0, np.int64)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def build_faiss(index: SearchIndex) -> None:
    """Writes the FAISS file: inverted lists of 8-bit vectors, D + 8 bytes per picture, built in memory.

    Raises:
      SearchIndexError: if FAISS is not installed.
    """
    faiss = import_faiss()
    size = len(index)
    lists = max(1, min(int(_LISTS_PER_ROOT * math.sqrt(size)), size // _TRAINING_POINTS))
    inverted = faiss.index_factory(index.manifest.embed_dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(size, min(size, lists * _TRAINING_POINTS), replace=False)
    inverted.train(index.global_features(np.sort(sample)))
    for _, features in index.blocks():
        inverted.add(features)
    with replace_when_complete(index.path / FAISS_FILE) as partial:
        faiss.write_index(inverted, str(partial))


def import_faiss() -> Any:
    """The library.

    Raises:
      SearchIndexError: if it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise SearchIndexError(f"FAISS is not installed: {how_to_install('faiss')}, or leave --faiss out") from None
    return faiss
