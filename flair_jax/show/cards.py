"""What the page shows of each sentence: scores, maps, and the maps of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flair_jax.show.draw import layer
from flair_jax.show.maps import Explanation
from flair_jax.show.render import data_url
from flair_jax.show.words import pieces


class Shown(NamedTuple):
    """A text, be it a sentence or a word.

    Attributes:
      score: text-conditioned logit.
      empty: share of the attention that matched nothing.
      attention: its map, as a data URL.
      patches: likewise.
    """

    score: str
    empty: str
    attention: str
    patches: str


class Card(NamedTuple):
    """A sentence.

    Attributes:
      sentence: as it was written.
      shown: the sentence as a whole.
      pieces: its words, and what stands between them; what is shown of each, if it is a word that has maps.
      global_score: global logit.
      best: whether its text-conditioned logit is the highest of all sentences.
      best_global: likewise.
    """

    sentence: str
    shown: Shown
    pieces: list[tuple[str, Shown | None]]
    global_score: str
    best: bool
    best_global: bool


def cards(sentences: Sequence[str], words: Sequence[str], found: Explanation, heads: Sequence[int]) -> list[Card]:
    """A card for each sentence.

    Args:
      sentences: N of them.
      words: those that have maps.
      found: what `explain_picture` gives for the sentences, and after them the words.
      heads: whose attention is averaged.
    """
    count = len(sentences)
    attention, empty = (np.asarray(each)[:, heads].mean(axis=1) for each in found.attention)
    shown = [
        Shown(
            f"{found.logits[n]:.2f}",
            f"{100 * empty[n]:.1f} %",
            data_url(layer(attention[n]), "png"),
            data_url(layer(np.asarray(found.patches[n])), "png"),
        )
        for n in range(count + len(words))
    ]
    of_word = dict(zip(words, shown[count:], strict=True))
    best, best_global = (np.asarray(each)[:count].max() for each in (found.logits, found.global_logits))
    return [
        Card(
            sentence,
            shown[n],
            [(text, of_word.get(text) if is_word else None) for text, is_word in pieces(sentence)],
            f"{found.global_logits[n]:.2f}",
            bool(found.logits[n] == best),
            bool(found.global_logits[n] == best_global),
        )
        for n, sentence in enumerate(sentences)
    ]
